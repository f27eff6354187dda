//! Options from the environment, shared with the `gaudi-soft` tool.

use gaudi_softnic::{Errno, FabricOptions};
use std::ffi::OsString;
use std::path::PathBuf;

/// The fabric's directory. Not set: the preloaded library does nothing at all.
pub const ENV_DIR: &str = "GAUDI_SOFT_DIR";
pub const ENV_DEVICES: &str = "GAUDI_SOFT_DEVICES";
pub const ENV_PORTS: &str = "GAUDI_SOFT_PORTS";
/// The posted kernel and nothing more.
pub const ENV_STRICT: &str = "GAUDI_SOFT_STRICT";
/// Devices for the stock rxe provider: objects but no data path.
pub const ENV_RXE: &str = "GAUDI_SOFT_RXE";
/// Interfaces of the ports, device by device, separated by commas; not set: loopback.
pub const ENV_NETDEV: &str = "GAUDI_SOFT_NETDEV";
/// Upper bound of a QP's retries, in milliseconds.
pub const ENV_RETRY_MS: &str = "GAUDI_SOFT_RETRY_MS";

pub const MAX_DEVICES: u32 = 8;
pub const MAX_PORTS: u32 = 24;
pub const DEFAULT_DEVICES: u32 = 2;
pub const DEFAULT_PORTS: u32 = 1;

/// Why the environment cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{name}={value:?} is not a number from {min} to {max}")]
    Range {
        name: &'static str,
        value: OsString,
        min: u32,
        max: u32,
    },
    #[error("{name}={value:?} is neither 0 nor 1")]
    Flag { name: &'static str, value: OsString },
    #[error("{ENV_DIR}={0:?} is not an absolute path")]
    RelativeDir(OsString),
}

impl From<ConfigError> for Errno {
    fn from(_: ConfigError) -> Errno {
        Errno::EINVAL
    }
}

/// `None` when this process is not meant to have a soft device.
pub fn options_from_env() -> Option<Result<FabricOptions, ConfigError>> {
    parse(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn parse(get: impl Fn(&str) -> Option<OsString>) -> Option<Result<FabricOptions, ConfigError>> {
    let dir = PathBuf::from(get(ENV_DIR)?);
    Some(parse_with(dir, get))
}

fn parse_with(
    dir: PathBuf,
    get: impl Fn(&str) -> Option<OsString>,
) -> Result<FabricOptions, ConfigError> {
    if !dir.is_absolute() {
        return Err(ConfigError::RelativeDir(dir.into_os_string()));
    }
    let number = |name: &'static str, default: u32, min: u32, max: u32| match get(name) {
        None => Ok(default),
        Some(value) => match value.to_str().and_then(|text| text.parse().ok()) {
            Some(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(ConfigError::Range {
                name,
                value,
                min,
                max,
            }),
        },
    };
    let flag = |name: &'static str| match get(name) {
        None => Ok(false),
        Some(value) if value == "0" => Ok(false),
        Some(value) if value == "1" => Ok(true),
        Some(value) => Err(ConfigError::Flag { name, value }),
    };
    Ok(FabricOptions {
        dir,
        devices: number(ENV_DEVICES, DEFAULT_DEVICES, 1, MAX_DEVICES)?,
        ports: number(ENV_PORTS, DEFAULT_PORTS, 1, MAX_PORTS)?,
        strict: flag(ENV_STRICT)?,
        retry_limit_ms: number(ENV_RETRY_MS, 0, 0, u32::MAX)?,
        rxe: flag(ENV_RXE)?,
    })
}

/// Names of the interfaces that ports are bound to.
pub(crate) fn netdevs_from_env() -> Vec<String> {
    let value = std::env::var(ENV_NETDEV).unwrap_or_default();
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_string)
        .collect()
}

/// What [`options_from_env`] reads back in a child process.
pub fn to_env(options: &FabricOptions) -> Vec<(&'static str, OsString)> {
    let flag = |on: bool| OsString::from(if on { "1" } else { "0" });
    vec![
        (ENV_DIR, options.dir.clone().into_os_string()),
        (ENV_DEVICES, options.devices.to_string().into()),
        (ENV_PORTS, options.ports.to_string().into()),
        (ENV_STRICT, flag(options.strict)),
        (ENV_RXE, flag(options.rxe)),
        (ENV_RETRY_MS, options.retry_limit_ms.to_string().into()),
    ]
}

/// Where the fabric of that name lives for this user: in `$XDG_RUNTIME_DIR` when that is a directory of ours, else in
/// `/dev/shm`. Does not create it. `None` for a name that is not a single plain path component.
pub fn default_fabric_dir(name: &str) -> Option<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    fabric_dir_under(
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        uid,
        name,
    )
}

fn fabric_dir_under(runtime: Option<PathBuf>, uid: u32, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !plain {
        return None;
    }
    let owned = |dir: &PathBuf| {
        rustix::fs::stat(dir).is_ok_and(|st| st.st_uid == uid && st.st_mode & 0o170000 == 0o040000)
    };
    let base = match runtime.filter(|dir| dir.is_absolute()).filter(owned) {
        Some(dir) => dir.join("gaudi-soft"),
        None => PathBuf::from(format!("/dev/shm/gaudi-soft-{uid}")),
    };
    Some(base.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Option<Result<FabricOptions, ConfigError>> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(k, v)| (k.to_string(), OsString::from(v)))
            .collect();
        parse(move |name| {
            pairs
                .iter()
                .find(|(k, _)| k == name)
                .map(|(_, v)| v.clone())
        })
    }

    #[test]
    fn nothing_without_a_directory() {
        assert_eq!(with(&[(ENV_DEVICES, "3")]), None);
    }

    #[test]
    fn defaults_and_round_trip() {
        let options = with(&[(ENV_DIR, "/x/y")]).unwrap().unwrap();
        assert_eq!(
            (options.devices, options.ports),
            (DEFAULT_DEVICES, DEFAULT_PORTS)
        );
        assert!(!options.strict && !options.rxe && options.retry_limit_ms == 0);
        let all = FabricOptions {
            devices: 8,
            ports: 24,
            strict: true,
            rxe: true,
            retry_limit_ms: 7,
            ..options
        };
        let env = to_env(&all);
        let back = parse(|name| env.iter().find(|(k, _)| *k == name).map(|(_, v)| v.clone()));
        assert_eq!(back, Some(Ok(all)));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            (ENV_DEVICES, "9"),
            (ENV_DEVICES, "0"),
            (ENV_PORTS, "25"),
            (ENV_PORTS, "-1"),
            (ENV_STRICT, "yes"),
        ] {
            assert!(with(&[(ENV_DIR, "/x"), bad]).unwrap().is_err(), "{bad:?}");
        }
        assert!(matches!(
            with(&[(ENV_DIR, "x")]).unwrap(),
            Err(ConfigError::RelativeDir(_))
        ));
    }

    #[test]
    fn fabric_directories() {
        assert_eq!(
            fabric_dir_under(None, 7, "a"),
            Some("/dev/shm/gaudi-soft-7/a".into())
        );
        for bad in ["", ".", "..", "a/b", ".hidden", "a b"] {
            assert_eq!(fabric_dir_under(None, 7, bad), None, "{bad:?}");
        }
    }
}
