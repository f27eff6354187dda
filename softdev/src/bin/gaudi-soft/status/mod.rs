//! `status`: what is connected to what, and how fast.

mod draw;
mod json;
mod picture;
mod screen;

use crate::directory::Directory;
use crate::{Failure, print};
use gaudi_softnic::FabricView;
use picture::Picture;
use screen::Screen;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between the two looks that make the rates of a single picture.
const GLANCE: Duration = Duration::from_millis(250);

#[derive(Debug, PartialEq)]
pub(crate) struct StatusArgs {
    pub(crate) fabric: String,
    /// Seconds between pictures.
    pub(crate) watch: Option<u32>,
    pub(crate) all: bool,
    pub(crate) json: bool,
}

pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let screen = Screen::of_stdout();
    let mut before = Picture::now(look(args)?);
    let mut pause = GLANCE;
    loop {
        std::thread::sleep(pause);
        let mut now = Picture::now(look(args)?);
        now.compare(&before);
        let text = if args.json {
            json::text(&args.fabric, &now)
        } else {
            screen.render(
                &draw::lines(&args.fabric, &now, args.all, screen.signs()),
                args.watch.is_some(),
            )
        };
        let Some(seconds) = args.watch else {
            return print(&text);
        };
        if !show(&text)? {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
        // Picture to picture, whatever drawing takes.
        pause = (before.taken + Duration::from_secs(u64::from(seconds)))
            .saturating_duration_since(Instant::now());
    }
}

/// False when the reader is gone.
fn show(text: &str) -> Result<bool, Failure> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::own(format!("cannot write the output: {e}"))),
    }
}

/// Opened anew for each picture: the fabric may have been made anew since the last.
fn look(args: &StatusArgs) -> Result<Option<picture::Seen>, Failure> {
    let Some(dir) = Directory::existing(&args.fabric)? else {
        return Ok(None);
    };
    let holders = dir.holders();
    let read = FabricView::open(&dir.path).and_then(|view| Ok((view.options(), view.look()?)));
    match read {
        Ok((options, snapshot)) => Ok(Some(picture::Seen {
            path: dir.path,
            options,
            snapshot,
            holders,
        })),
        // Nobody has opened a device yet.
        Err(e) if e.0 == libc::ENOENT => Ok(None),
        Err(e) if e.0 == libc::EINVAL => Err(Failure::new(
            1,
            format!(
                "fabric {} in {} is damaged or was made by another build: end the programs that use it, then `gaudi-soft clean --fabric {}`",
                args.fabric,
                dir.path.display(),
                args.fabric
            ),
        )),
        Err(e) => Err(Failure::new(
            1,
            format!(
                "fabric {} in {} cannot be read: {}",
                args.fabric,
                dir.path.display(),
                std::io::Error::from_raw_os_error(e.0)
            ),
        )),
    }
}
