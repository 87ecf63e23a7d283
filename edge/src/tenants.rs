//! The tenant table: who may ask, proven by which keys. Complete on every edge, and changed in place.
//!
//! Its rows lead into the picture of intent that this edge holds anyway, so a key costs one entry of an index.
//! What a policy says is looked up when a request comes: a policy of many tenants changes in one place.

use client::{Changed, Event, Picture};
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError, RwLock};
use subtle::ConstantTimeEq;
use types::intent::{Policy, Resource, ResourceId, Resume, Stored};
use types::{ApiKey, KeyId, PolicyName, Priority, RegionName, TenantName, UnixMs};

#[derive(Debug, Default)]
pub(crate) struct TenantTable {
    /// None before there was any picture. Held for a few lines at a time, by readers and writers alike.
    rows: RwLock<Option<Rows>>,
}

#[derive(Debug, Default)]
struct Rows {
    keys: HashMap<KeyId, Arc<Stored>>,
    tenants: HashMap<TenantName, TenantRow>,
    policies: HashMap<PolicyName, Arc<Stored>>,
}

#[derive(Debug)]
struct TenantRow {
    stored: Arc<Stored>,
    entry: Arc<TenantEntry>,
}

/// What a tenant holds of this edge; stays the same whatever changes about the tenant.
#[derive(Debug, Default)]
pub(crate) struct TenantEntry {
    pub(crate) requests: AtomicUsize,
    /// Bodies of requests in flight: an attempt may need one again until its answer is complete.
    pub(crate) body_bytes: AtomicUsize,
}

/// Who asks, and what follows from it for this request. Later changes do not touch it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) tenant: TenantName,
    pub(crate) entry: Arc<TenantEntry>,
    policy: Option<Arc<Stored>>,
    key: Arc<Stored>,
}

/// Why a key opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyRefused {
    Unknown,
    Expired,
    /// There is no tenant table yet.
    NoTable,
}

/// How much the table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) keys: usize,
    pub(crate) tenants: usize,
}

impl TenantTable {
    /// Whose key this is. The secret is hashed and compared also where the id is unknown, so that the time
    /// tells no one which ids exist.
    pub(crate) fn owner(&self, shown: &ApiKey, now: UnixMs) -> Result<Known, KeyRefused> {
        let hash = shown.hash();
        let (key, tenant) = {
            let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
            let rows = rows.as_ref().ok_or(KeyRefused::NoTable)?;
            (rows.keys.get(&shown.id()).cloned(), rows.tenant_of(shown.id()))
        };
        let kept = match key.as_deref() {
            Some(Stored { resource: Resource::Key(key), .. }) => Some(key),
            _ => None,
        };
        let proven: bool = hash.as_bytes().ct_eq(kept.map_or(&[0; 32], |key| key.hash.as_bytes())).into();
        let kept = kept.filter(|_| proven).ok_or(KeyRefused::Unknown)?;
        if kept.expires_unix_ms.is_some_and(|expires| expires <= now) {
            return Err(KeyRefused::Expired);
        }
        let name = kept.tenant.clone();
        let (entry, policy) = tenant.ok_or(KeyRefused::Unknown)?;
        let key = key.ok_or(KeyRefused::Unknown)?;
        Ok(Known { tenant: name, entry, policy, key })
    }

    /// Takes a picture over, or says what is wrong with it and stays as it is.
    pub(crate) fn take(&self, picture: &Picture, changed: Changed<'_>) -> Result<(), Vec<String>> {
        match changed {
            Changed::These(events) if self.is_there() => {
                let problems = problems_of_change(picture, events);
                if !problems.is_empty() {
                    return Err(problems);
                }
                let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
                rows.get_or_insert_default().change(events);
            }
            Changed::These(_) | Changed::Whole => {
                let problems = problems(picture);
                if !problems.is_empty() {
                    return Err(problems);
                }
                let mut whole = Rows::default();
                picture.resources().for_each(|stored| whole.put(stored));
                whole.keep_entries(self.rows.read().unwrap_or_else(PoisonError::into_inner).as_ref());
                let before = {
                    let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
                    rows.replace(whole)
                };
                // Not under the lock, because freeing a large table takes longer than a request should wait.
                drop(before);
            }
        }
        Ok(())
    }

    /// Where a tenant's requests may go (`None` = everywhere) and their class; `None` for one that is not there.
    pub(crate) fn policy_of(&self, name: &TenantName) -> Option<(Option<Vec<RegionName>>, Priority)> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let rows = rows.as_ref()?;
        let Resource::Tenant(tenant) = &rows.tenants.get(name)?.stored.resource else { return None };
        let Some(policy) = &tenant.policy else { return Some((None, Priority::default())) };
        let Resource::Policy(policy) = &rows.policies.get(policy)?.resource else { return None };
        Some((policy.regions.clone(), policy.priority))
    }

    pub(crate) fn is_there(&self) -> bool {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn counts(&self) -> Counts {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let count = |rows: &Rows| Counts { keys: rows.keys.len(), tenants: rows.tenants.len() };
        rows.as_ref().map_or(Counts::default(), count)
    }
}

impl Rows {
    fn change(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Put(stored) => self.put(stored),
                Event::Delete(ResourceId::Key(id)) => drop(self.keys.remove(id)),
                Event::Delete(ResourceId::Tenant(name)) => drop(self.tenants.remove(name)),
                Event::Delete(ResourceId::Policy(name)) => drop(self.policies.remove(name)),
                Event::Delete(_) => {}
            }
        }
    }

    fn put(&mut self, stored: &Arc<Stored>) {
        match &stored.resource {
            Resource::Key(key) => drop(self.keys.insert(key.id, stored.clone())),
            Resource::Policy(policy) => drop(self.policies.insert(policy.name.clone(), stored.clone())),
            Resource::Tenant(tenant) => {
                let entry = self.tenants.get(&tenant.name).map(|row| row.entry.clone()).unwrap_or_default();
                self.tenants.insert(tenant.name.clone(), TenantRow { stored: stored.clone(), entry });
            }
            // Not in this table's interest.
            _ => {}
        }
    }

    /// What tenants hold stays theirs.
    fn keep_entries(&mut self, before: Option<&Self>) {
        for (name, row) in &mut self.tenants {
            if let Some(kept) = before.and_then(|before| before.tenants.get(name)) {
                row.entry = kept.entry.clone();
            }
        }
    }

    /// None where a name leads nowhere: without its policy a tenant's residency would be forgotten.
    fn tenant_of(&self, id: KeyId) -> Option<(Arc<TenantEntry>, Option<Arc<Stored>>)> {
        let Resource::Key(key) = &self.keys.get(&id)?.resource else { return None };
        let row = self.tenants.get(&key.tenant)?;
        let Resource::Tenant(tenant) = &row.stored.resource else { return None };
        let policy = match &tenant.policy {
            Some(name) => Some(self.policies.get(name)?.clone()),
            None => None,
        };
        Some((row.entry.clone(), policy))
    }
}

impl Known {
    /// Where the tenant's requests may go; `None` = everywhere.
    pub(crate) fn regions(&self) -> Option<&[RegionName]> {
        self.policy().and_then(|policy| policy.regions.as_deref())
    }

    pub(crate) fn priority(&self) -> Priority {
        self.policy().map_or(Priority::default(), |policy| policy.priority)
    }

    /// What may happen to a stream that breaks.
    pub(crate) fn resume(&self) -> Resume {
        self.policy().map_or(Resume::default(), |policy| policy.resume)
    }

    /// Whether the model is within the key's scope.
    pub(crate) fn may_ask(&self, model: &str) -> bool {
        match &self.key.resource {
            Resource::Key(key) => {
                key.models.as_ref().is_none_or(|models| models.iter().any(|name| name.as_str() == model))
            }
            _ => false,
        }
    }

    fn policy(&self) -> Option<&Policy> {
        match &self.policy.as_deref()?.resource {
            Resource::Policy(policy) => Some(policy),
            _ => None,
        }
    }
}

/// What a change leads to nowhere. Looks at what changed alone, unless something that others name is gone.
fn problems_of_change(picture: &Picture, events: &[Event]) -> Vec<String> {
    let is_named =
        |event: &Event| matches!(event, Event::Delete(ResourceId::Tenant(_) | ResourceId::Policy(_)));
    if events.iter().any(is_named) {
        return problems(picture);
    }
    let put = |event: &Event| match event {
        Event::Put(stored) => problem(picture, stored),
        Event::Delete(_) => None,
    };
    events.iter().filter_map(put).collect()
}

fn problems(picture: &Picture) -> Vec<String> {
    picture.resources().filter_map(|stored| problem(picture, stored)).collect()
}

fn problem(picture: &Picture, stored: &Stored) -> Option<String> {
    let named = match &stored.resource {
        Resource::Key(key) => ResourceId::Tenant(key.tenant.clone()),
        Resource::Tenant(tenant) => ResourceId::Policy(tenant.policy.clone()?),
        _ => return None,
    };
    let is_there = picture.get(&named).is_some();
    (!is_there).then(|| format!("{} names {named}, which is not there", stored.resource.id()))
}

#[cfg(test)]
mod tests;
