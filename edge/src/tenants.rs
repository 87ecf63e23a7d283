//! The tenant table: who may ask, proven by which keys. Complete on every edge, read from `tenants.toml`.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use subtle::ConstantTimeEq;
use types::{ApiKey, KeyHash, KeyId, Priority, RegionName, TenantName};

/// `tenants.toml`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantFile {
    #[serde(default)]
    pub tenants: Vec<Tenant>,
    #[serde(default)]
    pub keys: Vec<KeyEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    pub name: TenantName,
    /// Where this tenant's requests may go; absent = everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<RegionName>>,
    #[serde(default)]
    pub priority: Priority,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    pub id: KeyId,
    pub tenant: TenantName,
    pub hash: KeyHash,
}

/// Keys by their id.
#[derive(Debug, Default)]
pub(crate) struct TenantTable {
    keys: HashMap<KeyId, (KeyHash, Arc<TenantEntry>)>,
}

/// A tenant and what it holds of this edge.
#[derive(Debug)]
pub(crate) struct TenantEntry {
    pub(crate) tenant: Tenant,
    /// Bodies of requests in flight: an attempt may need one again until its answer is complete.
    pub(crate) body_bytes: AtomicUsize,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadTenantsError {
    #[error("cannot read the tenant table {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a tenant table", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{}: {problem}", path.display())]
    Contradiction { path: PathBuf, problem: String },
}

impl TenantTable {
    pub(crate) fn read(path: &Path) -> Result<Self, ReadTenantsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ReadTenantsError::Read { path: path.to_owned(), source })?;
        let file: TenantFile = toml::from_str(&text)
            .map_err(|source| ReadTenantsError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        Self::from_file(file)
            .map_err(|problem| ReadTenantsError::Contradiction { path: path.to_owned(), problem })
    }

    fn from_file(file: TenantFile) -> Result<Self, String> {
        let mut tenants = HashMap::new();
        for tenant in file.tenants {
            let name = tenant.name.clone();
            let entry = TenantEntry { tenant, body_bytes: AtomicUsize::new(0) };
            if tenants.insert(name.clone(), Arc::new(entry)).is_some() {
                return Err(format!("tenant {name} is listed twice"));
            }
        }
        let mut keys = HashMap::new();
        for key in file.keys {
            let Some(tenant) = tenants.get(&key.tenant) else {
                return Err(format!("key {} belongs to tenant {}, which is not listed", key.id, key.tenant));
            };
            if keys.insert(key.id, (key.hash, tenant.clone())).is_some() {
                return Err(format!("key {} is listed twice", key.id));
            }
        }
        Ok(Self { keys })
    }

    /// Whose key this is. The secret is hashed and compared also where the id is unknown, so that the time
    /// tells no one which ids exist.
    pub(crate) fn owner(&self, key: &ApiKey) -> Option<Arc<TenantEntry>> {
        let shown = key.hash();
        let entry = self.keys.get(&key.id());
        let kept = entry.map_or(&[0; 32], |(hash, _)| hash.as_bytes());
        let proven: bool = shown.as_bytes().ct_eq(kept).into();
        entry.filter(|_| proven).map(|(_, tenant)| tenant.clone())
    }
}

#[cfg(test)]
impl TenantEntry {
    pub(crate) fn for_test() -> Self {
        let tenant = Tenant {
            name: "acme".parse().expect("a tenant's name"),
            regions: None,
            priority: Priority::Standard,
        };
        Self { tenant, body_bytes: AtomicUsize::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(keys: &[(&ApiKey, &str)]) -> TenantFile {
        let tenant = Tenant { name: "acme".parse().unwrap(), regions: None, priority: Priority::Standard };
        let keys = keys.iter().map(|(key, tenant)| KeyEntry {
            id: key.id(),
            tenant: tenant.parse().unwrap(),
            hash: key.hash(),
        });
        TenantFile { tenants: vec![tenant], keys: keys.collect() }
    }

    #[test]
    fn only_the_whole_key_opens() {
        let key = ApiKey::from_random([1; 10], [1; 32]);
        let table = TenantTable::from_file(file(&[(&key, "acme")])).unwrap();
        assert_eq!(table.owner(&key).unwrap().tenant.name.as_str(), "acme");
        assert!(table.owner(&ApiKey::from_random([1; 10], [2; 32])).is_none(), "another secret");
        assert!(table.owner(&ApiKey::from_random([2; 10], [1; 32])).is_none(), "another id");
    }

    #[test]
    fn contradictions_are_refused() {
        let key = ApiKey::from_random([1; 10], [1; 32]);
        assert!(TenantTable::from_file(file(&[(&key, "nobody")])).unwrap_err().contains("not listed"));
        assert!(
            TenantTable::from_file(file(&[(&key, "acme"), (&key, "acme")])).unwrap_err().contains("twice")
        );
        let text = toml::to_string(&file(&[(&key, "acme")])).unwrap();
        assert_eq!(toml::from_str::<TenantFile>(&text).unwrap().keys[0].hash, key.hash());
    }
}
