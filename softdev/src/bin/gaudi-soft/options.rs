//! The options of a fabric: what a command asks for, what the creator fixed, and the record of it beside the fabric file.

use softdev::config;
use std::fmt;

/// What the command line said; `None` where it said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) devices: Option<u32>,
    pub(crate) ports: Option<u32>,
    pub(crate) strict: Option<bool>,
    pub(crate) rxe: Option<bool>,
    pub(crate) retry_ms: Option<u32>,
    /// Interfaces, separated by commas, and the network namespace that they are in.
    pub(crate) netdev: Option<(String, u64)>,
}

/// What holds for every process of a fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) devices: u32,
    pub(crate) ports: u32,
    pub(crate) strict: bool,
    pub(crate) rxe: bool,
    pub(crate) retry_ms: u32,
    /// Empty and 0: loopback, whatever the namespace.
    pub(crate) netdev: String,
    pub(crate) netns: u64,
    /// Which build of the library made the fabric file: another one may lay it out differently.
    pub(crate) build: String,
}

impl Wanted {
    /// The options of a new fabric.
    pub(crate) fn fill(&self, build: &str) -> Options {
        let (netdev, netns) = self.netdev.clone().unwrap_or_default();
        Options {
            netdev,
            netns,
            devices: self.devices.unwrap_or(1),
            ports: self.ports.unwrap_or(1),
            strict: self.strict.unwrap_or(false),
            rxe: self.rxe.unwrap_or(false),
            retry_ms: self.retry_ms.unwrap_or(0),
            build: build.to_string(),
        }
    }

    /// Where the options of a running fabric contradict the command line. What was not said is taken from the fabric.
    pub(crate) fn conflict(&self, running: &Options) -> Option<String> {
        fn differs<T: PartialEq + Copy + fmt::Display>(
            name: &str,
            asked: Option<T>,
            has: T,
        ) -> Option<String> {
            asked
                .filter(|a| *a != has)
                .map(|a| format!("{name} {has}, not {a}"))
        }
        let parts: Vec<String> = [
            differs("--devices", self.devices, running.devices),
            differs("--ports", self.ports, running.ports),
            differs("--retry-ms", self.retry_ms, running.retry_ms),
            self.strict
                .filter(|s| *s != running.strict)
                .map(|_| "no --strict-posted".to_string()),
            self.netdev
                .as_ref()
                .filter(|(n, _)| *n != running.netdev)
                .map(|(n, _)| match running.netdev.as_str() {
                    "" => "no --netdev".to_string(),
                    has => format!("--netdev {has}, not {n}"),
                }),
            self.netdev
                .as_ref()
                .filter(|(n, ns)| *n == running.netdev && *ns != running.netns)
                .map(|_| "interfaces of another network namespace".to_string()),
            self.rxe
                .filter(|r| *r != running.rxe)
                .map(|_| "no --rxe".to_string()),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

impl Options {
    pub(crate) fn record(&self) -> String {
        format!(
            "devices={}\nports={}\nstrict={}\nrxe={}\nretry_ms={}\nnetdev={}\nnetns={}\nbuild={}\n",
            self.devices,
            self.ports,
            self.strict,
            self.rxe,
            self.retry_ms,
            self.netdev,
            self.netns,
            self.build
        )
    }

    /// `None` for anything but a whole record: the file may be half written or not ours.
    pub(crate) fn parse(text: &str) -> Option<Options> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let options = Options {
            devices: field("devices")?.parse().ok()?,
            ports: field("ports")?.parse().ok()?,
            strict: field("strict")?.parse().ok()?,
            rxe: field("rxe")?.parse().ok()?,
            retry_ms: field("retry_ms")?.parse().ok()?,
            netdev: field("netdev")?.to_string(),
            netns: field("netns")?.parse().ok()?,
            build: field("build")?.to_string(),
        };
        let sane = (1..=8).contains(&options.devices)
            && (1..=24).contains(&options.ports)
            && text.ends_with('\n');
        sane.then_some(options)
    }

    /// The environment that tells the preloaded library.
    pub(crate) fn environment(&self) -> [(&'static str, String); 6] {
        let flag = |on: bool| if on { "1" } else { "0" }.to_string();
        [
            (config::ENV_DEVICES, self.devices.to_string()),
            (config::ENV_PORTS, self.ports.to_string()),
            (config::ENV_STRICT, flag(self.strict)),
            (config::ENV_RXE, flag(self.rxe)),
            (config::ENV_RETRY_MS, self.retry_ms.to_string()),
            (config::ENV_NETDEV, self.netdev.clone()),
        ]
    }

    pub(crate) fn device_name(&self, device: u32) -> String {
        if self.rxe {
            format!("rxe_soft{device}")
        } else {
            format!("hbl_{device}")
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |n: u32| if n == 1 { "" } else { "s" };
        write!(
            f,
            "{} device{} of {} port{}",
            self.devices,
            s(self.devices),
            self.ports,
            s(self.ports)
        )?;
        if !self.netdev.is_empty() {
            write!(f, " on {}", self.netdev)?;
        }
        if self.strict {
            f.write_str(", strict-posted")?;
        }
        if self.rxe {
            f.write_str(", for the rxe provider")?;
        }
        if self.retry_ms != 0 {
            write!(f, ", retry limit {} ms", self.retry_ms)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Options {
        Wanted {
            devices: Some(2),
            strict: Some(true),
            ..Wanted::default()
        }
        .fill("b")
    }

    #[test]
    fn a_record_reads_back() {
        assert_eq!(Options::parse(&two().record()), Some(two()));
        let whole = two().record();
        for cut in 0..whole.len() {
            assert_eq!(Options::parse(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(
            Options::parse(&whole.replace("devices=2", "devices=900")),
            None
        );
    }

    #[test]
    fn only_what_was_said_can_conflict() {
        assert_eq!(Wanted::default().conflict(&two()), None);
        assert_eq!(
            Wanted {
                devices: Some(2),
                ..Wanted::default()
            }
            .conflict(&two()),
            None
        );
        let text = Wanted {
            devices: Some(3),
            rxe: Some(true),
            ..Wanted::default()
        }
        .conflict(&two())
        .unwrap();
        assert_eq!(text, "--devices 2, not 3, no --rxe");
    }

    #[test]
    fn in_words() {
        assert_eq!(two().to_string(), "2 devices of 1 port, strict-posted");
    }
}
