//! `rhumb check`: everything that would keep a role from starting, found before it is started.

use crate::failure;
use crate::role::configuration;
use std::path::Path;

/// What an edge would stumble over; nothing if it would start.
pub fn edge(path: &Path) -> Vec<String> {
    prepare_edge(path).err().unwrap_or_default()
}

/// All that an edge reads before it opens a socket, or everything that is wrong with it.
pub fn prepare_edge(path: &Path) -> Result<edge::Prepared, Vec<String>> {
    let config: edge::Config =
        configuration::read::<edge::File, _>(path, "edge").map_err(|error| vec![sentence(error)])?;
    edge::prepare(config).map_err(|problems| problems.into_iter().map(sentence).collect())
}

/// What a member of the control plane would stumble over.
pub fn control_plane(path: &Path) -> Vec<String> {
    prepare_control_plane(path).err().unwrap_or_default()
}

/// All that a member of the control plane reads before it opens a socket, or everything that is wrong with it.
pub fn prepare_control_plane(path: &Path) -> Result<control_plane::Prepared, Vec<String>> {
    let config: control_plane::Config = configuration::read::<control_plane::File, _>(path, "control-plane")
        .map_err(|error| vec![sentence(error)])?;
    control_plane::prepare(config).map_err(|problems| problems.into_iter().map(sentence).collect())
}

/// What a region agent would stumble over; its engines come from the intent.
pub fn region_agent(path: &Path) -> Vec<String> {
    let config: region_agent::Config =
        match configuration::read::<region_agent::File, _>(path, "region-agent") {
            Ok(config) => config,
            Err(error) => return vec![sentence(error)],
        };
    region_agent::load_identity(&config).err().map(sentence).into_iter().collect()
}

fn sentence(error: impl Into<anyhow::Error>) -> String {
    failure::chain(&error.into()).join(": ")
}
