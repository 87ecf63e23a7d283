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

/// What a region agent would stumble over, and its engines after it.
pub fn region_agent(path: &Path) -> Vec<String> {
    let config: region_agent::Config =
        match configuration::read::<region_agent::File, _>(path, "region-agent") {
            Ok(config) => config,
            Err(error) => return vec![sentence(error)],
        };
    let mut problems: Vec<String> =
        region_agent::load_identity(&config).err().map(sentence).into_iter().collect();
    for place in &config.places {
        let dir = place.model_dir.display();
        let problem = match engine::manifest::read(&place.model_dir) {
            Err(error) => sentence(error),
            Ok(manifest) if manifest.version() != place.version => {
                format!("{dir} holds {}, not {}", manifest.version(), place.version)
            }
            Ok(_) => continue,
        };
        // Replicas share their folder, and one word about it is enough.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}

fn sentence(error: impl Into<anyhow::Error>) -> String {
    failure::chain(&error.into()).join(": ")
}
