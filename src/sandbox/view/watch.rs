//! `rhumb sandbox watch`: the live picture of a sandbox that another process holds.

use crate::duration;
use crate::sandbox::kept_layout;
use crate::sandbox::paths::Paths;
use crate::sandbox::view::draw::Events;
use crate::sandbox::view::lines::lines;
use crate::sandbox::view::measure::{Instruments, Links};
use crate::sandbox::view::picture::Picture;
use crate::sandbox::view::screen::Screen;
use crate::sandbox::view::{Changes, Stage, pictures};
use crate::stdout::{self, Reader};
use std::io::Stdout;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Until a signal, the reader's end or the sandbox's, which is an error.
pub fn run(paths: &Paths, every: Duration, json: bool) -> anyhow::Result<()> {
    let layout = kept_layout(paths)?;
    let instruments = Instruments::new(layout, paths.clone(), Links::AtUp);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watched = runtime.block_on(watch(instruments, every, Shown::new(json)));
    // A question that is still on its way to a busy `up` is not waited for.
    runtime.shutdown_background();
    watched
}

enum Shown {
    Screen(Box<Stage<Stdout>>),
    Lines,
    Json,
}

async fn watch(instruments: Instruments, every: Duration, mut shown: Shown) -> anyhow::Result<()> {
    let mut pictures = pictures(instruments, every);
    let mut changes = Changes::new()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Its default leaves the terminal without echo.
    let mut quit = signal(SignalKind::quit())?;
    loop {
        let reader = tokio::select! {
            picture = pictures.recv() => match picture {
                Some(picture) => shown.show(picture?)?,
                None => return Ok(()),
            },
            change = changes.next() => match &mut shown {
                Shown::Screen(stage) => stage.adapt(change).map(|()| Reader::There)?,
                Shown::Lines | Shown::Json => Reader::There,
            },
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            _ = quit.recv() => return Ok(()),
        };
        if reader == Reader::Gone {
            return Ok(());
        }
    }
}

impl Shown {
    fn new(json: bool) -> Self {
        match Screen::on(std::io::stdout()) {
            _ if json => Self::Json,
            Some(screen) => {
                Self::Screen(Box::new(Stage { screen, events: Events::default(), picture: None }))
            }
            None => Self::Lines,
        }
    }

    fn show(&mut self, picture: Picture) -> std::io::Result<Reader> {
        match self {
            Self::Screen(stage) => stage.show(picture).map(|()| Reader::There),
            Self::Lines => stdout::print(&lines(&picture)),
            Self::Json => stdout::print(&(serde_json::to_string(&picture)? + "\n")),
        }
    }
}

/// As typed: not so short that looking becomes the sandbox's main work.
pub fn interval(text: &str) -> Result<Duration, &'static str> {
    let interval = duration::parse_some(text)?;
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) { Ok(interval) } else { Err(INTERVALS) }
}

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const INTERVALS: &str = "an interval is 100ms to 1h";
