//! The sandbox: a whole Rhumb on one Linux host, on loopback, as real processes of this binary.
//!
//! In reading order: [`layout`] where everything is, [`paths`] the same on disk · [`places`] where regions lie on the
//! map · [`claim`] what a sandbox has to itself · [`write`] what roles read · [`seed`] what the cluster is told ·
//! [`house_model`] what engines run · [`supervise`] the processes · [`ready`] when they do their work, asked by
//! [`probe`] and [`replicas`] · [`progress`] and [`report`] what is told of it · [`up`] all of that together ·
//! [`detach`] the same without a terminal · [`control`] how other commands speak to it: [`down`], [`status`], [`ps`],
//! [`start`], [`link`] · [`logs`] · [`view`] a live picture.

pub mod claim;
pub mod control;
pub mod detach;
pub mod down;
pub mod house_model;
pub mod layout;
pub mod link;
pub mod logs;
pub mod paths;
pub mod places;
pub mod probe;
pub mod progress;
pub mod ps;
pub mod ready;
pub mod replicas;
pub mod report;
pub mod seed;
pub mod start;
pub mod status;
pub mod supervise;
pub mod up;
pub mod view;
pub mod write;

use crate::failure::WrongUsage;
use anyhow::Context;
use layout::Layout;
use paths::Paths;
use std::io::ErrorKind;
use std::path::Path;
use types::RegionName;

/// A data directory that should already be there.
pub fn existing(data: &Path) -> anyhow::Result<Paths> {
    match data.canonicalize() {
        // Whatever is asked of it then, the answer is that nothing runs there.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Paths::below(std::path::absolute(data).context("there is no current directory")?))
        }
        found => Ok(Paths::below(found.with_context(|| format!("cannot use {}", data.display()))?)),
    }
}

/// The layout of the sandbox that was last up here.
pub fn kept_layout(paths: &Paths) -> anyhow::Result<Layout> {
    kept_layout_if_any(paths)?.with_context(|| {
        format!("there is no sandbox in {}; start one with `rhumb up`", paths.data().display())
    })
}

pub fn kept_layout_if_any(paths: &Paths) -> anyhow::Result<Option<Layout>> {
    let path = paths.layout();
    match std::fs::read(&path) {
        // Guessing what it was could make voters anew that have voted before.
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
            format!("{} is damaged; give it back its content, or give another `--data`", path.display())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A region that somebody typed, if the sandbox has it.
pub fn known_region(paths: &Paths, region: RegionName) -> anyhow::Result<RegionName> {
    let known = kept_layout(paths)?.regions;
    if known.names().contains(&region) {
        return Ok(region);
    }
    Err(WrongUsage(format!("there is no region {region}; this sandbox has {known}")).into())
}
