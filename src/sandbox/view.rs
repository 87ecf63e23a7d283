//! A live picture of a running sandbox: below the summary of the `up` that holds it, and by `rhumb sandbox watch`.
//!
//! In reading order: [`measure`] one look, with [`metrics`] · [`picture`] what changed since the last one · [`draw`]
//! it for a terminal, with [`columns`] and [`links`] · [`lines`] for pipes · [`screen`] the place at the end of a
//! terminal · [`watch`] the command.

mod columns;
mod draw;
mod lines;
mod links;
pub mod measure;
mod metrics;
mod picture;
#[cfg(test)]
mod samples;
pub mod screen;
pub mod watch;

use crate::sandbox::control::ControlError;
use crate::sandbox::layout::Layout;
use crate::sandbox::paths::Paths;
use crate::say::say;
use chaos::Network;
use draw::Events;
use measure::{Instruments, Links};
use picture::Picture;
use screen::Screen;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::MissedTickBehavior;

/// The view of the `up` that holds the sandbox, and the way past it for everything else that `up` has to say.
pub enum View {
    Hidden,
    Shown(Shown),
}

/// A view on its own thread, because a terminal that was stopped, by Ctrl-S or by a network, blocks whoever writes
/// to it.
pub struct Shown {
    /// None once it is to end.
    words: Option<mpsc::Sender<Word>>,
    /// Closed when the terminal is as it was.
    gone: std::sync::mpsc::Receiver<()>,
}

enum Word {
    Told(String),
    /// Others have written over the lines, and what they wrote is worth more.
    Spoilt,
}

impl View {
    /// Below what was printed so far, if people look at it.
    pub fn of_this_process(layout: &Layout, paths: &Paths, network: &Network) -> std::io::Result<Self> {
        let Some(screen) = Screen::on(std::io::stderr()) else { return Ok(Self::Hidden) };
        let instruments = Instruments::new(layout.clone(), paths.clone(), Links::Here(network.clone()));
        let (words, heard) = mpsc::channel(WORDS_MAX);
        let (restored, gone) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("view".to_owned()).spawn(move || {
            let _restored: std::sync::mpsc::Sender<()> = restored;
            // That a terminal cannot be written to any more is nothing that anybody could be told there.
            let _ =
                runtime.block_on(async { accompany(screen, pictures(instruments, INTERVAL), heard).await });
        })?;
        Ok(Self::Shown(Shown { words: Some(words), gone }))
    }

    /// Says something that stays, above the view while there is one.
    pub fn tell(&self, words: String) {
        let untold = match self {
            Self::Hidden => Some(words),
            Self::Shown(shown) => shown.tell(words),
        };
        if let Some(words) = untold {
            say!("{words}");
        }
    }

    /// Leaves the terminal to whoever writes next, with everything said that was to be told.
    pub fn end(&mut self) {
        *self = Self::Hidden;
    }
}

impl Shown {
    /// Gives back what cannot be told here any more. A terminal that is stopped loses words: waiting for it would
    /// stop `up`.
    fn tell(&self, words: String) -> Option<String> {
        match self.words.as_ref()?.try_send(Word::Told(words)) {
            Err(TrySendError::Closed(Word::Told(words))) => Some(words),
            _ => None,
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(words) = self.words.take().filter(|_| std::thread::panicking()) {
            let _ = words.try_send(Word::Spoilt);
        }
        let _ = self.gone.recv_timeout(END_MAX);
    }
}

/// Draws until nobody can tell anything any more.
async fn accompany<W: Write + AsFd>(
    screen: Screen<W>,
    mut pictures: mpsc::Receiver<Result<Picture, ControlError>>,
    mut words: mpsc::Receiver<Word>,
) -> std::io::Result<()> {
    let mut changes = Changes::new()?;
    let mut stage = Stage { screen, events: Events::default(), picture: None };
    loop {
        tokio::select! {
            word = words.recv() => match word {
                Some(Word::Told(words)) => stage.screen.tell(&words)?,
                Some(Word::Spoilt) => stage.screen.forget(),
                None => return Ok(()),
            },
            Some(Ok(picture)) = pictures.recv() => stage.show(picture)?,
            change = changes.next() => stage.adapt(change)?,
        }
    }
}

/// A picture every interval, from a task that ends when nobody takes them; after an error comes nothing.
fn pictures(mut instruments: Instruments, every: Duration) -> mpsc::Receiver<Result<Picture, ControlError>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<Picture> = None;
        while !sender.is_closed() {
            ticks.tick().await;
            let picture = match instruments.look().await {
                Ok(look) => Picture::of(look, last.as_ref()),
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            last = Some(picture.clone());
            // Whoever no longer listens is found above.
            let _ = sender.send(Ok(picture)).await;
        }
    });
    receiver
}

/// A screen with what is on it.
struct Stage<W: Write + AsFd> {
    screen: Screen<W>,
    events: Events,
    picture: Option<Picture>,
}

impl<W: Write + AsFd> Stage<W> {
    fn show(&mut self, mut picture: Picture) -> std::io::Result<()> {
        for event in std::mem::take(&mut picture.events) {
            self.events.add(picture.at_ms, event);
        }
        self.picture = Some(picture);
        self.draw()
    }

    fn adapt(&mut self, change: Change) -> std::io::Result<()> {
        if change == Change::Continued {
            self.screen.forget();
        }
        self.draw()
    }

    fn draw(&mut self) -> std::io::Result<()> {
        let Some(picture) = &self.picture else { return Ok(()) };
        let (columns, rows) = self.screen.room();
        self.screen.show(&draw::draw(picture, &self.events, columns.into(), rows.into()))
    }
}

/// What becomes of a terminal behind a process's back.
struct Changes {
    resized: Signal,
    continued: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Resized,
    /// After Ctrl-Z, and perhaps in the background now.
    Continued,
}

impl Changes {
    fn new() -> std::io::Result<Self> {
        let continued = SignalKind::from_raw(nix::libc::SIGCONT);
        Ok(Self { resized: signal(SignalKind::window_change())?, continued: signal(continued)? })
    }

    async fn next(&mut self) -> Change {
        tokio::select! {
            _ = self.resized.recv() => Change::Resized,
            _ = self.continued.recv() => Change::Continued,
        }
    }
}

/// As often as people notice.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// More than `up` says in the time that a screen takes to draw.
const WORDS_MAX: usize = 64;
/// A terminal that takes its last words takes them at once; one that is stopped must not hold `up`.
const END_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::{LocalFlags, tcgetattr};
    use samples::Matter;
    use std::fs::File;
    use std::io::Read;
    use std::sync::mpsc::{Receiver, channel};

    fn has_echo(terminal: &File) -> bool {
        tcgetattr(terminal).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// What arrives at the other end of a terminal, on a thread, so that a test can stop to wait for it.
    fn seen(mut screen: File) -> Receiver<String> {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                let _ = sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned());
            }
        });
        receiver
    }

    fn read_until(seen: &Receiver<String>, last: &str) -> String {
        let mut text = String::new();
        while !text.contains(last) {
            text += &seen.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        text
    }

    #[test]
    fn the_terminal_is_given_back_as_it_was_with_what_was_told_on_it() {
        let size = Winsize { ws_row: 20, ws_col: 70, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let (seen, slave) = (seen(File::from(pair.master)), File::from(pair.slave));
        let screen = Screen::new(slave.try_clone().unwrap(), screen::Colours::Hidden);
        let (picture, pictures) = mpsc::channel(1);
        let (words, heard) = mpsc::channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accompany(screen, pictures, heard)).unwrap();
        });
        assert!(has_echo(&slave));
        let look = samples::look(&samples::layout(3), 1, &Matter::default());
        assert!(picture.blocking_send(Ok(Picture::of(look, None))).is_ok());
        read_until(&seen, "ap-south  serving");
        assert!(!has_echo(&slave), "a key must not move the cursor");
        assert!(words.blocking_send(Word::Told("edge us-east ended".to_owned())).is_ok());
        let text = read_until(&seen, "us-east ↔ ap-south");
        let (told, lines) = (text.find("edge us-east ended").unwrap(), text.find("REGION").unwrap());
        assert!(told < lines, "{text:?}");
        drop(words);
        thread.join().unwrap();
        assert!(has_echo(&slave));
    }
}
