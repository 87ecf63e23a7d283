//! A subscriber that believes nothing: each update is checked against the contract before it counts.

use crate::world::{CLUSTER, World};
use identity::Name;
use proto::v1;
use proto::v1::event::Event;
use proto::v1::subscriber_message::Message;
use proto::v1::update::Content;
use proto::v1::watch_client::WatchClient;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use types::intent::{ResourceId, Stored};

pub struct Subscriber {
    pub incarnation: u64,
    pub revision: u64,
    pub picture: BTreeMap<ResourceId, Stored>,
    /// Parts of a snapshot that has not ended.
    parts: Option<BTreeMap<ResourceId, Stored>>,
    pub say: mpsc::Sender<v1::SubscriberMessage>,
    updates: Streaming<v1::Update>,
}

/// What an update was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Part,
    Whole,
    /// The events in short: the id, with a minus where it is gone.
    Delta(Vec<String>),
    Bookmark,
}

#[derive(Default, Clone)]
pub struct Wish {
    pub kinds: Vec<&'static str>,
    pub region: Option<&'static str>,
    pub resume: Option<(u64, u64)>,
}

pub fn message(message: Message) -> v1::SubscriberMessage {
    v1::SubscriberMessage { message: Some(message) }
}

pub fn subscribe(wish: &Wish) -> v1::SubscriberMessage {
    let resume = wish.resume.map(|(incarnation, revision)| v1::Position { incarnation, revision });
    message(Message::Subscribe(v1::Subscribe {
        cluster: CLUSTER.to_owned(),
        resume,
        kinds: wish.kinds.iter().map(ToString::to_string).collect(),
        region: wish.region.map(ToOwned::to_owned),
    }))
}

impl Subscriber {
    pub async fn new(world: &World, at: usize, name: &Name, wish: Wish) -> Result<Self, Status> {
        Self::saying(world, at, name, vec![subscribe(&wish)], wish.resume).await
    }

    pub async fn saying(
        world: &World,
        at: usize,
        name: &Name,
        first: Vec<v1::SubscriberMessage>,
        has: Option<(u64, u64)>,
    ) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(16);
        for message in first {
            say.try_send(message).unwrap();
        }
        let mut client = WatchClient::new(world.channel(at, name));
        let updates = client.subscribe(ReceiverStream::new(said)).await?.into_inner();
        let (incarnation, revision) = has.unwrap_or_default();
        Ok(Self { incarnation, revision, picture: BTreeMap::new(), parts: None, say, updates })
    }

    /// The next update, checked and applied.
    pub async fn next(&mut self) -> Result<Got, Status> {
        let update = tokio::time::timeout(Duration::from_secs(20), self.updates.message());
        let update = update.await.expect("a member that is silent for so long is gone")?;
        let update = update.ok_or_else(|| Status::ok("the member ended it"))?;
        Ok(self.take(update))
    }

    /// The next update that is no bookmark.
    pub async fn next_change(&mut self) -> Result<Got, Status> {
        for _ in 0..BOOKMARKS_MAX {
            match self.next().await? {
                Got::Bookmark => {}
                got => return Ok(got),
            }
        }
        panic!("only bookmarks come");
    }

    /// Takes updates until the picture is of this revision at least.
    pub async fn until(&mut self, revision: u64) -> Vec<Got> {
        let mut all = Vec::new();
        while self.revision < revision || self.parts.is_some() {
            all.push(self.next().await.unwrap());
        }
        all
    }

    fn take(&mut self, update: v1::Update) -> Got {
        let content = update.content.unwrap();
        if let Content::Snapshot(snapshot) = content {
            let is_first = self.parts.is_none();
            assert_eq!(update.prev_revision == 0, is_first, "only the first part follows nothing");
            let parts = self.parts.get_or_insert_default();
            assert!(snapshot.resources.len() <= 500);
            for stored in snapshot.resources {
                let stored = Stored::try_from(stored).unwrap();
                assert!(stored.revision.0 <= update.revision, "nothing is newer than the picture");
                assert!(parts.insert(stored.resource.id(), stored).is_none(), "each resource once");
            }
            if !is_first {
                assert_eq!(update.revision, self.revision, "all parts are of one revision");
            }
            let is_same = self.incarnation == update.incarnation;
            assert!(!is_same || update.revision >= self.revision, "never back in time");
            (self.incarnation, self.revision) = (update.incarnation, update.revision);
            let Some(total) = snapshot.total else { return Got::Part };
            self.picture = self.parts.take().unwrap();
            assert_eq!(self.picture.len() as u64, total);
            return Got::Whole;
        }
        assert!(self.parts.is_none(), "nothing comes between the parts of a snapshot");
        assert_eq!(update.incarnation, self.incarnation);
        assert_eq!(update.prev_revision, self.revision, "no gap and no overlap");
        let before = std::mem::replace(&mut self.revision, update.revision);
        let delta = match content {
            Content::Delta(delta) => delta,
            Content::Bookmark(is_so) => {
                assert!(is_so && update.revision >= before);
                return Got::Bookmark;
            }
            Content::Snapshot(_) => unreachable!("was taken above"),
        };
        assert!(update.revision > before, "revisions rise with each change");
        let mut touched = BTreeSet::new();
        let mut texts = Vec::new();
        for event in delta.events {
            let id = match event.event.unwrap() {
                Event::Put(stored) => {
                    let stored = Stored::try_from(stored).unwrap();
                    let id = stored.resource.id();
                    assert!(
                        (before + 1..=update.revision).contains(&stored.revision.0),
                        "of these writes alone"
                    );
                    texts.push(id.to_string());
                    self.picture.insert(id.clone(), stored);
                    id
                }
                Event::Delete(id) => {
                    texts.push(format!("-{id}"));
                    let id = id.parse().unwrap();
                    self.picture.remove(&id);
                    id
                }
            };
            assert!(touched.insert(id), "each resource at most once");
        }
        assert!(!touched.is_empty());
        Got::Delta(texts)
    }
}

/// Half a minute of nothing else.
const BOOKMARKS_MAX: usize = 6;
