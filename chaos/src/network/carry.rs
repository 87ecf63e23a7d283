//! Carries an open connection: both directions, until both have ended or one is reset.

use crate::network::alarm::Alarm;
use crate::network::early::Early;
use crate::network::link::{Head, Segment};
use crate::network::links::Way;
use crate::network::socket::{Closes, finish, read, write};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::net::TcpStream;
use types::Monotonic;

pub(super) struct Connection {
    /// From the client, and to it.
    directions: [Direction; 2],
    /// There until the handshake has come back.
    early: Option<Early>,
    alarm: Alarm,
}

struct Direction {
    way: Way,
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    source: Source,
    /// Read before the handshake was done, and sent before anything else.
    early: VecDeque<Bytes>,
    /// Ends when the source resets the connection.
    reset: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The source has reset the connection, though reading has not shown it: writing has.
    is_source_reset: bool,
    writing: Bytes,
    /// Of the segment that is being written.
    segment_bytes: usize,
    sink: Sink,
}

#[derive(PartialEq)]
enum Source {
    Open,
    /// Has sent everything, and may still reset the connection.
    Ended,
    Reset,
}

#[derive(PartialEq)]
enum Sink {
    Open,
    /// Knows that everything was sent.
    Finished,
    /// Takes nothing any more.
    Reset,
}

/// What came of delivering.
enum Delivered {
    /// All that has arrived; more will at that time, if it is known.
    All(Option<Monotonic>),
    Handshake,
    /// The receiver must be told that the connection is reset.
    Reset,
    /// The receiver has reset the connection.
    Refused,
}

impl Connection {
    /// The target has been dialled and its agreement travels on the way back.
    pub(super) fn new(
        (client, target): (Arc<TcpStream>, TcpStream),
        (there, back): (Way, Way),
        early: Early,
        alarm: Alarm,
    ) -> Self {
        let target = Arc::new(target);
        let directions = [
            Direction::new(there, Arc::clone(&client), Arc::clone(&target)),
            Direction::new(back, target, client),
        ];
        Self { directions, early: Some(early), alarm }
    }

    fn step(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut next: Option<Monotonic> = None;
            let mut moved = false;
            for at in 0..self.directions.len() {
                match self.directions[at].deliver(context) {
                    Delivered::All(later) => next = next.into_iter().chain(later).min(),
                    Delivered::Handshake => {
                        if let Some(early) = self.early.take() {
                            self.directions[0].early = early.segments;
                        }
                        moved = true;
                    }
                    Delivered::Reset => return Poll::Ready(()),
                    Delivered::Refused => {
                        self.directions[1 - at].source_was_reset();
                        moved = true;
                    }
                }
            }
            match &mut self.early {
                Some(early) => {
                    let client = &self.directions[0].from;
                    if early.poll(context, client).is_ready() {
                        return Poll::Ready(());
                    }
                }
                None => moved |= self.directions[0].collect(context),
            }
            moved |= self.directions[1].collect(context);
            if self.directions.iter().all(|direction| direction.sink == Sink::Finished) {
                self.directions.iter().for_each(|direction| Closes::WithoutReset.set(&direction.to));
                return Poll::Ready(());
            }
            if !moved {
                self.alarm.set(next, context.waker());
                return Poll::Pending;
            }
        }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.step(context)
    }
}

impl Direction {
    fn new(way: Way, from: Arc<TcpStream>, to: Arc<TcpStream>) -> Self {
        let watched = Arc::clone(&from);
        Self {
            way,
            from,
            to,
            source: Source::Open,
            early: VecDeque::new(),
            // An error of the watching itself is the end of the runtime, and everything here ends with it.
            reset: Box::pin(async move { drop(watched.ready(Interest::ERROR).await) }),
            is_source_reset: false,
            writing: Bytes::new(),
            segment_bytes: 0,
            sink: Sink::Open,
        }
    }

    /// Sends one segment, if there is one and room for it; false = nothing to do now.
    fn collect(&mut self, context: &mut Context<'_>) -> bool {
        if self.sink == Sink::Reset || self.source == Source::Reset {
            return false;
        }
        let room = if self.source == Source::Open { self.way.room() } else { 0 };
        if room == 0 {
            // Room comes with a delivery, which is followed by another look here. A reset does not wait for it.
            let is_reset = self.is_source_reset || self.reset.as_mut().poll(context).is_ready();
            if is_reset {
                self.break_off();
            }
            return is_reset;
        }
        if let Some(first) = self.early.front_mut() {
            let segment = first.split_to(room.min(first.len()));
            if first.is_empty() {
                self.early.pop_front();
            }
            self.way.enter(Segment::Data(segment));
            return true;
        }
        // An end that was seen before the handshake was done shows again.
        match read(&self.from, context, room) {
            Poll::Pending => return false,
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => self.way.enter(Segment::Data(bytes)),
            Poll::Ready(Ok(_)) if !self.is_source_reset => self.end(),
            Poll::Ready(_) => self.break_off(),
        }
        true
    }

    /// Writes what has arrived.
    fn deliver(&mut self, context: &mut Context<'_>) -> Delivered {
        if self.sink == Sink::Reset {
            return Delivered::All(None);
        }
        loop {
            while !self.writing.is_empty() {
                match write(&self.to, context, &self.writing) {
                    Poll::Ready(Ok(written)) => self.writing.advance(written),
                    Poll::Ready(Err(_)) => {
                        self.sink = Sink::Reset;
                        return Delivered::Refused;
                    }
                    Poll::Pending => {
                        return match self.way.reset() {
                            Head::Arrived(_) => Delivered::Reset,
                            Head::At(at) => Delivered::All(Some(at)),
                            Head::Nothing => Delivered::All(None),
                        };
                    }
                }
                if self.writing.is_empty() {
                    self.way.carried(self.segment_bytes);
                }
            }
            match self.way.take(context) {
                Head::At(at) => return Delivered::All(Some(at)),
                Head::Nothing => return Delivered::All(None),
                Head::Arrived(Segment::Syn) => return Delivered::Handshake,
                Head::Arrived(Segment::Reset) => return Delivered::Reset,
                Head::Arrived(Segment::Data(bytes)) => {
                    self.segment_bytes = bytes.len();
                    self.writing = bytes;
                }
                Head::Arrived(Segment::Fin) => {
                    if finish(&self.to).is_err() {
                        self.sink = Sink::Reset;
                        return Delivered::Refused;
                    }
                    self.sink = Sink::Finished;
                }
            }
        }
    }

    fn end(&mut self) {
        self.way.enter(Segment::Fin);
        self.source = Source::Ended;
    }

    fn break_off(&mut self) {
        self.way.enter(Segment::Reset);
        self.source = Source::Reset;
    }

    /// The other direction could not write to this one's source.
    fn source_was_reset(&mut self) {
        self.is_source_reset = true;
        // An open source may have more to read before the end shows.
        if self.source == Source::Ended {
            self.break_off();
        }
    }
}
