//! Hardware counters of a port and of the device, in the order in which the driver lists them.
//!
//! Source: `hbl_cn` statistics tables of the June 2024 posting.

/// Names under `ports/N/hw_counters`.
pub const PORT_COUNTERS: [&str; 88] = [
    // link
    "pcs_local_faults",
    "pcs_remote_faults",
    "pcs_remote_fault_reconfig",
    "pcs_link_restores",
    "pcs_link_toggles",
    // transport
    "spmu_req_out_of_range_psn",
    "spmu_req_unset_psn",
    "spmu_res_duplicate_psn",
    "spmu_res_out_of_sequence_psn",
    // MAC receive
    "rx_Octets",
    "rx_OctetsReceivedOK",
    "rx_aAlignmentErrors",
    "rx_aPAUSEMACCtrlFramesReceived",
    "rx_aFrameTooLongErrors",
    "rx_aInRangeLengthErrors",
    "rx_aFramesReceivedOK",
    "rx_aFrameCheckSequenceErrors",
    "rx_VLANReceivedOK",
    "rx_ifInErrors",
    "rx_ifInUcastPkts",
    "rx_ifInMulticastPkts",
    "rx_ifInBroadcastPkts",
    "rx_DropEvents",
    "rx_Pkts",
    "rx_UndersizePkts",
    "rx_Pkts64Octets",
    "rx_Pkts65to127Octets",
    "rx_Pkts128to255Octets",
    "rx_Pkts256to511Octets",
    "rx_Pkts512to1023Octets",
    "rx_Pkts1024to1518Octets",
    "rx_Pkts1519toMaxOctets",
    "rx_OversizePkts",
    "rx_Jabbers",
    "rx_Fragments",
    "rx_aCBFCPAUSERx0",
    "rx_aCBFCPAUSERx1",
    "rx_aCBFCPAUSERx2",
    "rx_aCBFCPAUSERx3",
    "rx_aCBFCPAUSERx4",
    "rx_aCBFCPAUSERx5",
    "rx_aCBFCPAUSERx6",
    "rx_aCBFCPAUSERx7",
    "rx_aMACControlFramesReceived",
    // FEC
    "cw_corrected_accum",
    "cw_uncorrect_accum",
    "cw_corrected",
    "cw_uncorrect",
    "symbol_err_corrected_lane_0",
    "symbol_err_corrected_lane_1",
    "symbol_err_corrected_lane_2",
    "symbol_err_corrected_lane_3",
    "pre_FEC_SER_int",
    "pre_FEC_SER_exp (negative)",
    "post_FEC_SER_int",
    "post_FEC_SER_exp (negative)",
    // MAC transmit
    "tx_Octets",
    "tx_OctetsTransmittedOK",
    "tx_aPAUSEMACCtrlFramesTransmitted",
    "tx_aFramesTransmittedOK",
    "tx_VLANTransmittedOK",
    "tx_ifOutErrors",
    "tx_ifOutUcastPkts",
    "tx_ifOutMulticastPkts",
    "tx_ifOutBroadcastPkts",
    "tx_Pkts64Octets",
    "tx_Pkts65to127Octets",
    "tx_Pkts128to255Octets",
    "tx_Pkts256to511Octets",
    "tx_Pkts512to1023Octets",
    "tx_Pkts1024to1518Octets",
    "tx_Pkts1519toMaxOctets",
    "tx_aCBFCPAUSETx0",
    "tx_aCBFCPAUSETx1",
    "tx_aCBFCPAUSETx2",
    "tx_aCBFCPAUSETx3",
    "tx_aCBFCPAUSETx4",
    "tx_aCBFCPAUSETx5",
    "tx_aCBFCPAUSETx6",
    "tx_aCBFCPAUSETx7",
    "tx_aMACControlFramesTx",
    "tx_Pkts",
    // queues
    "Congestion Q err",
    "Eth DB fifo overrun",
    // performance
    "bandwidth_gbps_int",
    "bandwidth_gbps_frac",
    "last_data_latency_usec_int",
    "last_data_latency_usec_frac",
];

/// Names under the device's `hw_counters`.
pub const DEVICE_COUNTERS: [&str; 1] = ["fatal_event"];

/// Index of a port counter by name.
pub fn port_counter(name: &str) -> Option<usize> {
    PORT_COUNTERS.iter().position(|counter| *counter == name)
}
