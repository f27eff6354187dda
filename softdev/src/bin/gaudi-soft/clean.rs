//! `clean`: remove a fabric that nobody uses.

use crate::Failure;
use crate::directory::Directory;
use std::process::ExitCode;

pub(crate) fn clean(fabric: &str) -> Result<ExitCode, Failure> {
    match Directory::existing(fabric)? {
        None => println!("There is no fabric {fabric}."),
        Some(dir) if dir.remove()? => println!("Removed {}.", dir.path.display()),
        Some(_) => {
            return Err(Failure::new(
                1,
                format!(
                    "fabric {fabric} is in use; `gaudi-soft devices --fabric {fabric}` shows by whom"
                ),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}
