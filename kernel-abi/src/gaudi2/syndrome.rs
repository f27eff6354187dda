//! Syndromes of QP errors: two bits of origin (receive, QP context, transmit) and a code.
//!
//! Source: the posted driver's table; texts are ours. The driver decides between the async events QP_REQ_ERR and
//! QP_FATAL by looking for "req" in its own text, so [`is_req`] lists the codes where that finds something, and the
//! texts here contain "req" for exactly those.

/// Declares codes with their texts.
macro_rules! syndromes {
    ($( $name:ident = $code:literal, $text:literal; )*) => {
        $( #[doc = $text] pub const $name: u8 = $code; )*

        /// Every code with a name.
        pub const ALL: &[u8] = &[ $( $code ),* ];

        /// What a syndrome means; "unknown" for codes without a name.
        pub const fn text(syndrome: u8) -> &'static str {
            match syndrome {
                $( $code => $text, )*
                _ => "unknown",
            }
        }
    };
}

syndromes! {
    RX_MALFORMED = 0x01, "receive: malformed packet";
    RX_TUNNEL = 0x02, "receive: tunnel header invalid";
    RX_BTH_OPCODE = 0x03, "receive: BTH opcode invalid";
    RX_AETH_SYNDROME = 0x04, "receive: AETH syndrome invalid";
    RX_RC_TOO_BIG = 0x05, "receive: RC packet too big";
    RX_RC_TOO_SMALL = 0x06, "receive: RC packet too small";
    RX_RAW_TOO_SMALL = 0x07, "receive: raw packet too small";
    RX_RAW_TOO_BIG = 0x08, "receive: raw packet too big";
    RX_QP_INVALID = 0x09, "receive: QP not valid";
    RX_TRANSPORT = 0x0a, "receive: transport service differs";
    RX_REQ_STATE = 0x0b, "receive: state of the requester invalid";
    RX_RES_STATE = 0x0c, "receive: state of the responder invalid";
    RX_RES_RESYNC = 0x0d, "receive: resync of the responder invalid";
    RX_REQ_PSN = 0x0e, "receive: PSN of the requester invalid";
    RX_REQ_PSN_UNSET = 0x0f, "receive: PSN of the requester not sent yet";
    RX_RKEY = 0x10, "receive: key differs from the responder's";
    RX_WQE_INDEX = 0x11, "receive: WQE index differs";
    RX_OPCODE_WRITE = 0x12, "receive: opcode illegal for a write queue";
    RX_OPCODE_RDV = 0x13, "receive: opcode illegal for a rendezvous queue";
    RX_OPCODE_READ = 0x14, "receive: opcode illegal for a read queue";
    RX_WRITE_ZERO = 0x15, "receive: write of zero bytes";
    RX_STRIDE_ZERO = 0x16, "receive: multi-stride write of zero bytes";
    RX_WRITE_TOO_BIG = 0x17, "receive: write or send too big";
    RX_STRIDE_TOO_BIG = 0x18, "receive: multi-stride write too big";

    TIMER_RETRY = 0x40, "timer: retries exhausted";
    DB_QP_INVALID = 0x41, "doorbell of the requester: QP not valid";
    DB_SECURITY = 0x42, "doorbell of the requester: security check";
    DB_PI = 0x43, "doorbell of the requester: producer index above last index";
    DB_READ_QUEUE = 0x44, "doorbell of the requester: queue is of type read";
    REQ_TX_QP_INVALID = 0x45, "requester transmit: QP not valid";
    REQ_TX_RDV = 0x46, "requester transmit: rendezvous WQE but queue not of type write";
    REQ_RX_QP_INVALID = 0x47, "requester receive: QP not valid";
    REQ_RX_RETRY = 0x48, "requester receive: retries exhausted by NAKs";
    REQ_RDV_QP_INVALID = 0x49, "requester rendezvous: QP not valid";
    REQ_RDV_WQ_TYPE = 0x4a, "requester rendezvous: wrong queue type";
    REQ_RDV_PI = 0x4b, "requester rendezvous: producer index above last index";
    RES_TX_QP_INVALID = 0x4c, "responder transmit: QP not valid";
    RES_RX_QP_INVALID = 0x4d, "responder receive: QP not valid";

    TX_OPCODE_WRITE = 0x80, "transmit: opcode illegal for a write queue";
    TX_OPCODE_RDV = 0x81, "transmit: opcode illegal for a rendezvous queue";
    TX_OPCODE_READ = 0x82, "transmit: opcode illegal for a read queue";
    TX_OPCODE_GAUDI1 = 0x83, "transmit: opcode illegal in GAUDI1 mode";
    TX_WRITE_ZERO = 0x84, "transmit: write of zero bytes";
    TX_STRIDE_ZERO = 0x85, "transmit: stride write of zero bytes";
    TX_SEND_ZERO = 0x86, "transmit: send of zero bytes";
    TX_RDV_ZERO = 0x87, "transmit: rendezvous of zero bytes";
    TX_WRITE_TOO_BIG = 0x88, "transmit: write or send above the maximum";
    TX_STRIDE_TOO_BIG = 0x89, "transmit: stride write above the maximum";
    TX_RDV_LOG_SIZE = 0x8a, "transmit: rendezvous with too small a remote queue";
    TX_RDV_WRITE_SIZE = 0x8b, "transmit: rendezvous write size not the configured one";
    TX_RDV_READ_SIZE = 0x8c, "transmit: rendezvous read size not the configured one";
    TX_INLINE_SIZE = 0x8d, "transmit: inline size not the configured one";
    TX_INLINE_GAUDI1 = 0x8e, "transmit: inline data in GAUDI1 mode";
    TX_STRIDE_GRANULARITY = 0x8f, "transmit: stride WQE in a queue of 32-byte entries";
    TX_RESERVED = 0x90, "transmit: reserved bit set";
    TX_WQE_INDEX = 0x91, "transmit: WQE index is not the execution index";
    TX_STRIDE_SIZE = 0x92, "transmit: size below the stride size";
    TX_UPSCALE_ALIGN = 0x93, "transmit: up-scaling reduction to an odd address";
    TX_UPSCALE_OPCODE = 0x94, "transmit: opcode cannot up-scale";
    TX_RAW_SIZE = 0x95, "transmit: raw packet size unsupported";

    WQE_QOS_INLINE = 0xb0, "WQE: QoS update with inline data";
    WQE_OPCODE_RANGE = 0xb1, "WQE: opcode above 15";
    WQE_RAW_ABOVE_MIN = 0xb2, "WQE: raw size above the minimum";
    WQE_RAW_BELOW_MAX = 0xb3, "WQE: raw size below the maximum";
    WQE_REDUCTION_OFF = 0xb4, "WQE: reduction code without the enable bit";
    WQE_READ_RDV_INLINE = 0xb5, "WQE: read rendezvous with inline data";
    WQE_FETCH_SIZE = 0xb6, "WQE: fetching write is not 4 bytes";
    WQE_FETCH_ALIGN = 0xb7, "WQE: fetching write is not 4-byte aligned";
    WQE_RDV_LAST_INDEX = 0xb8, "WQE: rendezvous last index";
    WQE_GAUDI1_DUAL = 0xb9, "WQE: dual stride in GAUDI1 mode";
    WQE_OPCODE = 0xba, "WQE: bad opcode";
    WQE_SIZE = 0xbb, "WQE: bad size";
    WQE_SOLICITED = 0xbc, "WQE: solicited bit on a connected QP";
    WQE_GAUDI1_TUNNEL = 0xbd, "WQE: tunnel in GAUDI1 mode";
    WQE_TUNNEL_ZERO = 0xbe, "WQE: tunnel header of zero bytes";
    WQE_TUNNEL_TOO_BIG = 0xbf, "WQE: tunnel header too big";
}

/// Whether the driver reports the syndrome as QP_REQ_ERR (else QP_FATAL, also for the timer's 0x40).
pub const fn is_req(syndrome: u8) -> bool {
    matches!(syndrome, 0x0b | 0x0e | 0x0f | 0x41..=0x4b)
}

/// Which unit found the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Receive,
    Context,
    Transmit,
    Unknown,
}

pub const fn origin(syndrome: u8) -> Origin {
    match syndrome >> 6 {
        0 => Origin::Receive,
        1 => Origin::Context,
        2 => Origin::Transmit,
        _ => Origin::Unknown,
    }
}
