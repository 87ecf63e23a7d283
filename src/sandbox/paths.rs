//! Where a sandbox keeps everything on disk.

use crate::sandbox::house_model;
use crate::sandbox::layout::Member;
use std::path::{Path, PathBuf};
use types::RegionName;

/// Everything below a sandbox's data directory.
#[derive(Debug, Clone)]
pub struct Paths {
    data: PathBuf,
}

impl Paths {
    /// `data` is absolute, because roles get paths below it and stand in other directories.
    pub fn below(data: PathBuf) -> Self {
        Self { data }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn lock(&self) -> PathBuf {
        self.data.join("up.lock")
    }

    pub fn layout(&self) -> PathBuf {
        self.data.join("sandbox.json")
    }

    pub fn cluster(&self) -> PathBuf {
        self.data.join("cluster")
    }

    pub fn api_key(&self) -> PathBuf {
        self.data.join("api-key")
    }

    pub fn authority(&self) -> PathBuf {
        self.data.join("ca")
    }

    pub fn models(&self) -> PathBuf {
        self.data.join(house_model::MODELS)
    }

    /// The identity of who types commands.
    pub fn operator(&self) -> PathBuf {
        self.data.join(OPERATOR)
    }

    /// Where operator commands find the control plane.
    pub fn context(&self) -> PathBuf {
        self.data.join("operator.toml")
    }

    pub fn role_dir(&self, member: &Member) -> PathBuf {
        self.data.join("regions").join(member.region.as_str()).join(member.role.as_str())
    }

    pub fn config(&self, member: &Member) -> PathBuf {
        self.role_dir(member).join(format!("{}.toml", member.role))
    }

    pub fn identity(&self, member: &Member) -> PathBuf {
        self.role_dir(member).join("identity")
    }

    /// What a role remembers: a voter its log, an edge or agent its last good pictures.
    pub fn role_data(&self, member: &Member) -> PathBuf {
        self.role_dir(member).join("data")
    }

    /// What an edge shows to clients.
    pub fn public_certificate(&self, member: &Member) -> PathBuf {
        self.role_dir(member).join("public")
    }

    pub fn up_log(&self) -> PathBuf {
        self.data.join("logs").join("up.log")
    }

    pub fn region_logs(&self, region: &RegionName) -> PathBuf {
        self.data.join("logs").join(region.as_str())
    }

    pub fn log(&self, member: &Member) -> PathBuf {
        self.region_logs(&member.region).join(format!("{}.log", member.role))
    }
}

/// Below the data directory.
pub const OPERATOR: &str = "operator";
