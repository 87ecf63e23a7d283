//! What this node is to run, as the control plane says it: live, or as it last said.

use crate::config::Config;
use crate::placement::{self, Wanted};
use client::follow::OpenError;
use client::{Changed, Follower, Interest, Picture, Standing};
use std::sync::Arc;
use tokio::sync::watch;
use types::intent::Kind;

/// The intent for this node, for whoever acts on it or speaks of it.
#[derive(Clone)]
pub struct Intent {
    /// None before there was any picture.
    pub wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub standing: watch::Receiver<Standing>,
}

/// Takes a picture over, or says why this node cannot do what it says.
pub type Take = Box<dyn FnMut(&Picture, Changed<'_>) -> Result<(), String> + Send>;

/// What an agent follows.
pub fn interest(config: &Config, cluster: &str) -> Interest {
    Interest {
        name: "deployments",
        cluster: cluster.to_owned(),
        // Drains are for edges: what runs here is finished, and nothing new comes.
        kinds: vec![Kind::Node, Kind::Model, Kind::Version, Kind::Deployment],
        region: Some(config.region.clone()),
        keep: config.data.join("deployments"),
    }
}

/// Takes the newest good picture from disk, if there is one.
pub fn open(config: &Config, cluster: &str) -> Result<(Intent, Follower<Take>), OpenError> {
    let interest = interest(config, cluster);
    let node = config.node_key();
    let (sender, wanted) = watch::channel(None);
    // The whole picture each time: it is small, and a plan is made of all of it.
    let take = move |picture: &Picture, _: Changed<'_>| {
        let resources = picture.resources().map(|stored| &stored.resource);
        let wanted = placement::wanted(resources, &node).map_err(|unusable| unusable.to_string())?;
        sender.send_replace(Some(Arc::new(wanted)));
        Ok(())
    };
    let follower = Follower::open(interest, Box::new(take) as Take)?;
    Ok((Intent { wanted, standing: follower.standing() }, follower))
}
