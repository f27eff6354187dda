//! One PCI function of the tree and the classes below it.

use super::writer::Dir;
use crate::netdev;
use crate::paths::Node;
use gaudi_softnic::{FabricOptions, GidType, Result, device_guid, port_gid};
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// Length of a port's GID table.
pub(crate) fn gid_table() -> u32 {
    if netdev::bound() {
        netdev::SLOTS as u32
    } else {
        GID_TABLE
    }
}

const GID_TABLE: u32 = kernel_abi::hbl::EXT_GID_TBL_LEN;
/// Netdev that carries the ports' addresses.
const NETDEV: &str = "lo";
/// Major, minor and sub-minor version of the firmware that it stands for.
pub(crate) const FIRMWARE: [u16; 3] = [1, 17, 0];

/// Name of the verbs device.
pub fn device_name(options: &FabricOptions, n: u32) -> String {
    if options.rxe {
        format!("rxe_soft{n}")
    } else {
        format!("hbl_{n}")
    }
}

/// Standard port counters of `ports/<p>/counters`.
pub fn port_counter_names() -> &'static [&'static str] {
    &[
        "port_xmit_data",
        "port_rcv_data",
        "port_xmit_packets",
        "port_rcv_packets",
        "unicast_xmit_packets",
        "unicast_rcv_packets",
        "multicast_xmit_packets",
        "multicast_rcv_packets",
        "port_xmit_discards",
        "port_xmit_wait",
        "port_xmit_constraint_errors",
        "port_rcv_errors",
        "port_rcv_constraint_errors",
        "port_rcv_remote_physical_errors",
        "port_rcv_switch_relay_errors",
        "symbol_error",
        "link_downed",
        "link_error_recovery",
        "local_link_integrity_errors",
        "excessive_buffer_overrun_errors",
        "VL15_dropped",
    ]
}

pub(super) fn fill(
    pci: &Dir,
    bdf: &str,
    driver: &str,
    name: &str,
    options: &FabricOptions,
    n: u32,
) -> Result<()> {
    pci.file("vendor", "0x1da3\n")?;
    pci.file("device", "0x1020\n")?;
    pci.file("subsystem_vendor", "0x1da3\n")?;
    pci.file("subsystem_device", "0x1020\n")?;
    pci.file("revision", "0x01\n")?;
    pci.file("class", "0x120000\n")?;
    pci.file("numa_node", "-1\n")?;
    // No NUMA affinity: the masks cover every CPU that libraries may ask about.
    pci.file("local_cpus", "ffffffff,ffffffff,ffffffff,ffffffff\n")?;
    pci.file("local_cpulist", "0-127\n")?;
    for kind in ["current", "max"] {
        pci.file(&format!("{kind}_link_width"), "16\n")?;
        pci.file(&format!("{kind}_link_speed"), "16.0 GT/s PCIe\n")?;
    }
    if !options.rxe {
        pci.file(
            "modalias",
            "pci:v00001DA3d00001020sv00001DA3sd00001020bc12sc00i00\n",
        )?;
    }
    let uevent =
        format!("DRIVER={driver}\nPCI_CLASS=120000\nPCI_ID=1DA3:1020\nPCI_SLOT_NAME={bdf}\n");
    pci.file("uevent", &uevent)?;
    pci.link("driver", &format!("../../../bus/pci/drivers/{driver}"))?;
    pci.link("subsystem", "../../../bus/pci")?;
    // No "net": a device with one is taken to have a connection manager (rdma_cm), which this one has not.
    ibdev(&pci.dir("infiniband")?.dir(name)?, name, options, n)?;
    uverbs(
        &pci.dir("infiniband_verbs")?.dir(&format!("uverbs{n}"))?,
        name,
        options,
        n,
    )?;
    if !options.rxe {
        let accel = pci.dir("accel")?.dir(&format!("accel{n}"))?;
        number(&accel, Node::Accel(n), &format!("accel/accel{n}"))?;
    }
    Ok(())
}

fn number(dir: &Dir, node: Node, devname: &str) -> Result<()> {
    let (major, minor) = (node.major(), node.minor());
    dir.file("dev", &format!("{major}:{minor}\n"))?;
    dir.file(
        "uevent",
        &format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={devname}\n"),
    )?;
    dir.link("device", "../..")
}

fn uverbs(dir: &Dir, name: &str, options: &FabricOptions, n: u32) -> Result<()> {
    dir.file("ibdev", &format!("{name}\n"))?;
    // The driver's own ABI version: 1 for hbl, 2 for rxe since its queues carry their indices in one header.
    dir.file("abi_version", if options.rxe { "2\n" } else { "1\n" })?;
    number(dir, Node::Uverbs(n), &format!("infiniband/uverbs{n}"))
}

fn ibdev(dir: &Dir, name: &str, options: &FabricOptions, n: u32) -> Result<()> {
    let guid = device_guid(n).to_be_bytes();
    let guid = groups(&guid);
    // The posted driver says "unspecified" (7); consumers take only a CA for an InfiniBand transport.
    dir.file("node_type", "1: CA\n")?;
    dir.file("node_guid", &format!("{guid}\n"))?;
    dir.file("sys_image_guid", &format!("{guid}\n"))?;
    dir.file("node_desc", &format!("{name}\n"))?;
    let [major, minor, sub] = FIRMWARE;
    dir.file("fw_ver", &format!("{major}.{minor}.{sub}\n"))?;
    dir.file("hw_rev", "1\n")?;
    dir.file("hca_type", "HL-225\n")?;
    dir.file("board_id", "SOFT_GAUDI2\n")?;
    dir.link("device", "../..")?;
    dir.link("subsystem", "../../../../../class/infiniband")?;
    let ports = dir.dir("ports")?;
    for port in 1..=options.ports {
        fill_port(&ports.dir(&port.to_string())?, n, port, options.strict)?;
    }
    Ok(())
}

fn fill_port(dir: &Dir, n: u32, port: u32, strict: bool) -> Result<()> {
    dir.file("state", "4: ACTIVE\n")?;
    dir.file("phys_state", "5: LinkUp\n")?;
    dir.file("rate", "100 Gb/sec (2X HDR)\n")?;
    dir.file("link_layer", "Ethernet\n")?;
    // A LID names a port of this fabric, and an interface leads further.
    let lid = if strict || netdev::bound() {
        0
    } else {
        gaudi_softnic::port_lid(n, port)
    };
    dir.file("lid", &format!("{lid:#x}\n"))?;
    dir.file("lid_mask_count", "0\n")?;
    dir.file("sm_lid", "0x0\n")?;
    dir.file("sm_sl", "0\n")?;
    dir.file("cap_mask", "0x00000000\n")?;
    dir.dir("pkeys")?.file("0", "0xffff\n")?;
    let gids = dir.dir("gids")?;
    let attrs = dir.dir("gid_attrs")?;
    let (types, ndevs) = (attrs.dir("types")?, attrs.dir("ndevs")?);
    for index in 0..gid_table() {
        let entry = port_gid(n, port, index).filter(|_| !netdev::bound());
        let gid = entry.map_or([0; 16], |(gid, _)| gid);
        gids.file(&index.to_string(), &format!("{}\n", groups(&gid)))?;
        // Reading the attributes of an empty slot fails in the kernel: here the file is not there.
        if let Some((_, gid_type)) = entry {
            types.file(&index.to_string(), type_name(gid_type))?;
            ndevs.file(&index.to_string(), &format!("{NETDEV}\n"))?;
        }
    }
    // Filled when they are opened. Until then they take no page each, of which 24 ports would need ten megabytes.
    let counters = dir.dir("counters")?;
    for name in port_counter_names() {
        counters.file(name, "")?;
    }
    let hw_counters = dir.dir("hw_counters")?;
    for name in kernel_abi::hbl::PORT_COUNTERS {
        hw_counters.file(name, "")?;
    }
    hw_counters.file("lifespan", "10\n")
}

/// What follows the interface of a bound port, in place: readers see old or new lines.
pub(crate) fn write_port(dir: &Path, port: &netdev::Port) {
    let put = |name: String, text: Option<String>| {
        let path = dir.join(name);
        let Some(text) = text else {
            // Reading the attributes of an empty slot fails.
            let _ = rustix::fs::unlink(&path);
            return;
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let written = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)).and_then(|file| {
            rustix::io::pwrite(&file, text.as_bytes(), 0)?;
            rustix::fs::ftruncate(&file, text.len() as u64)
        });
        if let Err(e) = written {
            log::warn!("{}: {e}", path.display());
        }
    };
    let (state, phys) = if port.up {
        ("4: ACTIVE\n", "5: LinkUp\n")
    } else {
        ("1: DOWN\n", "3: Disabled\n")
    };
    put("state".into(), Some(state.into()));
    put("phys_state".into(), Some(phys.into()));
    for index in 0..gid_table() {
        let entry = port.gid(index);
        let gid = entry.map_or([0; 16], |(gid, _)| gid);
        put(format!("gids/{index}"), Some(format!("{}\n", groups(&gid))));
        let kind = entry.map(|(_, kind)| type_name(kind).to_string());
        put(format!("gid_attrs/types/{index}"), kind);
        let name = entry.map(|_| format!("{}\n", port.name));
        put(format!("gid_attrs/ndevs/{index}"), name);
    }
}

fn type_name(kind: GidType) -> &'static str {
    match kind {
        GidType::RoceV1 => "IB/RoCE v1\n",
        GidType::RoceV2 => "RoCE v2\n",
    }
}

/// Groups of four hexadecimal digits with colons, as sysfs prints GUIDs and GIDs.
fn groups(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (i, byte) in bytes.iter().enumerate() {
        if i > 0 && i % 2 == 0 {
            text.push(':');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guid_text() {
        assert_eq!(
            groups(&[0, 0x1d, 0xa3, 0xff, 0xfe, 0, 1, 2]),
            "001d:a3ff:fe00:0102"
        );
    }
}
