//! What this node should run, and how it gets from what is in its places now to there.
//!
//! Pure: [`wanted`] reads the intent, [`plan`] compares it with the places, [`crate::places`] carries it out and
//! asks again whenever either has changed.
//!
//! Invariant: a replica that is wanted as it is gets no order. One that is wanted in another way, with other
//! settings or another version, goes on until as many of its successors serve, so that the node keeps its capacity;
//! but no longer than their first attempt lasts: where two do not fit beside each other, the old makes room.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use types::intent::{Deployment, NodeKey, Resource, Version};
use types::{ModelName, ModelVersion};

/// What one replica runs, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub version: ModelVersion,
    pub model_dir: PathBuf,
    /// The model name in answers.
    pub served_name: ModelName,
    pub slots: u32,
    pub threads: u32,
    pub kv_tokens: Option<u64>,
    pub step_time: Duration,
}

/// What the intent wants of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The intent names this node. Another one gets nothing, wherever its region's deployments are.
    pub is_known: bool,
    /// One for each model that runs here, ordered by model.
    pub replicas: Vec<Share>,
}

/// How many replicas of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub recipe: Recipe,
    pub count: u16,
}

/// Why a node cannot do what the intent says. The intent before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("deployment/{model}: there is no version/{version}")]
    NoVersion { model: ModelName, version: ModelVersion },
    #[error("version/{version}: source: {found:?} is not file:// and an absolute path")]
    Source { version: ModelVersion, found: String },
    #[error("deployment/{model}: engine: needs at least one slot and one thread")]
    Engine { model: ModelName },
}

/// What is in one place now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub recipe: Recipe,
    pub progress: Progress,
}

/// How far the replica in a place has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// On its first way to serving.
    Coming,
    Serving,
    /// It ended, or was killed, and has not served since.
    Failing,
    /// Finishes what it has. Its place is free when it is gone.
    Draining,
}

/// What to do, and what cannot be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub start: BTreeMap<u16, Recipe>,
    pub drain: Vec<u16>,
    /// No place is free for these.
    pub waiting: Vec<Share>,
}

/// Reads what a node should run out of the resources that concern its region.
pub fn wanted<'a>(resources: impl Iterator<Item = &'a Resource>, node: &NodeKey) -> Result<Wanted, Unusable> {
    let mut is_known = false;
    let mut versions: BTreeMap<ModelVersion, &Version> = BTreeMap::new();
    let mut deployments: BTreeMap<&ModelName, &Deployment> = BTreeMap::new();
    for resource in resources {
        match resource {
            Resource::Node(known) => is_known |= known.key == *node,
            Resource::Version(version) => {
                versions.insert(version.version, version);
            }
            Resource::Deployment(deployment) => {
                deployments.insert(&deployment.model, deployment);
            }
            _ => {}
        }
    }
    let mut replicas = Vec::new();
    if is_known {
        for deployment in deployments.into_values() {
            let here = deployment.placements.iter().find(|placement| placement.region == node.region);
            let count = here.map_or(0, |placement| placement.replicas_per_node);
            if count > 0 {
                replicas.push(Share { recipe: recipe(deployment, &versions)?, count });
            }
        }
    }
    Ok(Wanted { is_known, replicas })
}

fn recipe(deployment: &Deployment, versions: &BTreeMap<ModelVersion, &Version>) -> Result<Recipe, Unusable> {
    let Deployment { model, version, engine, .. } = deployment;
    let model = || model.clone();
    let known = versions.get(version).ok_or(Unusable::NoVersion { model: model(), version: *version })?;
    let path = known.source.strip_prefix(FILE).filter(|path| path.starts_with('/'));
    let model_dir =
        path.ok_or_else(|| Unusable::Source { version: *version, found: known.source.clone() })?.into();
    if engine.slots == 0 || engine.threads == 0 {
        return Err(Unusable::Engine { model: model() });
    }
    Ok(Recipe {
        version: *version,
        model_dir,
        served_name: model(),
        slots: engine.slots,
        threads: engine.threads,
        kv_tokens: engine.kv_tokens,
        step_time: Duration::from_millis(engine.step_time_ms),
    })
}

impl Wanted {
    pub fn replica_count(&self) -> u32 {
        self.replicas.iter().map(|share| u32::from(share.count)).sum()
    }
}

/// Compares what is wanted with what is in the places, of which there are `places`.
pub fn plan(wanted: &Wanted, held: &BTreeMap<u16, Held>, places: u16) -> Plan {
    let mut plan = Plan::default();
    let mut free = (0..places).filter(|number| !held.contains_key(number));
    for Share { recipe, count } in &wanted.replicas {
        let current = numbers(held, |it| it.recipe == *recipe && it.progress != Progress::Draining);
        let (kept, surplus) = current.split_at(current.len().min(usize::from(*count)));
        // The highest numbers go, so that places fill from the lowest.
        plan.drain.extend(surplus);

        let missing = usize::from(*count) - kept.len();
        let started: Vec<u16> = free.by_ref().take(missing).collect();
        let waiting = u16::try_from(missing - started.len()).unwrap_or(u16::MAX);
        if waiting > 0 {
            plan.waiting.push(Share { recipe: recipe.clone(), count: waiting });
        }
        let coming = kept.iter().filter(|number| held[number].progress == Progress::Coming).count();
        let bridged = coming + started.len();
        plan.start.extend(started.into_iter().map(|number| (number, recipe.clone())));

        let is_former = |it: &Held| it.recipe.served_name == recipe.served_name && it.recipe != *recipe;
        let serving = numbers(held, |it| is_former(it) && it.progress == Progress::Serving);
        plan.drain.extend(&serving[serving.len().min(bridged)..]);
        let useless = |progress| matches!(progress, Progress::Coming | Progress::Failing);
        plan.drain.extend(numbers(held, |it| is_former(it) && useless(it.progress)));
    }
    let is_wanted =
        |it: &Held| wanted.replicas.iter().any(|share| share.recipe.served_name == it.recipe.served_name);
    plan.drain.extend(numbers(held, |it| !is_wanted(it) && it.progress != Progress::Draining));
    plan
}

fn numbers(held: &BTreeMap<u16, Held>, is_meant: impl Fn(&Held) -> bool) -> Vec<u16> {
    held.iter().filter(|(_, it)| is_meant(it)).map(|(number, _)| *number).collect()
}

/// The only source there is yet: a directory on each node.
const FILE: &str = "file://";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use types::intent::{Agent, EngineSettings, Node, NodeKind, Placement};

    const PLACES: u16 = 4;

    fn recipe(model: u8, variant: u8) -> Recipe {
        Recipe {
            version: ModelVersion::from_digest([variant; 32]),
            model_dir: format!("/models/{model}-{variant}").into(),
            served_name: format!("m{model}").parse().unwrap(),
            slots: 8,
            threads: 1,
            kv_tokens: None,
            step_time: Duration::ZERO,
        }
    }

    fn want(shares: &[(u8, u8, u16)]) -> Wanted {
        let share = |(model, variant, count): &(u8, u8, u16)| Share {
            recipe: recipe(*model, *variant),
            count: *count,
        };
        Wanted { is_known: true, replicas: shares.iter().map(share).collect() }
    }

    fn held(places: &[(u16, u8, u8, Progress)]) -> BTreeMap<u16, Held> {
        let held = |(number, model, variant, progress): &(u16, u8, u8, Progress)| {
            (*number, Held { recipe: recipe(*model, *variant), progress: *progress })
        };
        places.iter().map(held).collect()
    }

    /// (started: number and variant, drained, how many wait)
    fn planned(wanted: &Wanted, held: &BTreeMap<u16, Held>) -> (Vec<u16>, Vec<u16>, u16) {
        let mut plan = plan(wanted, held, PLACES);
        plan.drain.sort_unstable();
        let waiting = plan.waiting.iter().map(|share| share.count).sum();
        (plan.start.into_keys().collect(), plan.drain, waiting)
    }

    use Progress::{Coming, Draining, Failing, Serving};

    #[test]
    fn an_empty_node_is_filled_from_the_lowest_place() {
        assert_eq!(planned(&want(&[(0, 0, 2)]), &held(&[])), (vec![0, 1], vec![], 0));
        assert_eq!(planned(&want(&[(0, 0, 1), (1, 1, 1)]), &held(&[])), (vec![0, 1], vec![], 0));
    }

    #[test]
    fn fewer_replicas_end_the_highest_places() {
        let three = held(&[(0, 0, 0, Serving), (1, 0, 0, Failing), (3, 0, 0, Serving)]);
        assert_eq!(planned(&want(&[(0, 0, 1)]), &three), (vec![], vec![1, 3], 0));
        assert_eq!(planned(&want(&[]), &three), (vec![], vec![0, 1, 3], 0));
    }

    #[test]
    fn the_old_serve_until_the_new_do() {
        let new = want(&[(0, 1, 2)]);
        let old = held(&[(0, 0, 0, Serving), (1, 0, 0, Serving)]);
        assert_eq!(planned(&new, &old), (vec![2, 3], vec![], 0));
        let mut both = held(&[(0, 0, 0, Serving), (1, 0, 0, Serving), (2, 0, 1, Coming), (3, 0, 1, Coming)]);
        assert_eq!(planned(&new, &both), (vec![], vec![], 0));
        both.get_mut(&2).unwrap().progress = Serving;
        assert_eq!(planned(&new, &both), (vec![], vec![1], 0));
        both.get_mut(&1).unwrap().progress = Draining;
        both.get_mut(&3).unwrap().progress = Serving;
        assert_eq!(planned(&new, &both), (vec![], vec![0], 0));
    }

    #[test]
    fn an_old_one_makes_room_for_a_new_one_that_cannot_start_beside_it() {
        let failing = held(&[(0, 0, 0, Serving), (1, 0, 1, Failing)]);
        assert_eq!(planned(&want(&[(0, 1, 1)]), &failing), (vec![], vec![0], 0));
    }

    #[test]
    fn without_a_free_place_the_old_drain_first_and_the_new_wait() {
        let full = held(&[(0, 0, 0, Serving), (1, 0, 0, Serving), (2, 0, 0, Serving), (3, 1, 0, Serving)]);
        let new = want(&[(0, 1, 3), (1, 0, 1)]);
        assert_eq!(planned(&new, &full), (vec![], vec![0, 1, 2], 3));
        let mut draining = full;
        (0..3).for_each(|number| draining.get_mut(&number).unwrap().progress = Draining);
        assert_eq!(planned(&new, &draining), (vec![], vec![], 3), "said once, and not ended twice");
        draining.remove(&1);
        assert_eq!(planned(&new, &draining), (vec![1], vec![], 2));
    }

    #[test]
    fn one_that_drains_is_not_wanted_back() {
        let draining = held(&[(0, 0, 0, Draining)]);
        assert_eq!(planned(&want(&[(0, 0, 1)]), &draining), (vec![1], vec![], 0));
    }

    fn node() -> NodeKey {
        "us-east/n1".parse().unwrap()
    }

    fn resources(region: &str, replicas_per_node: u16, source: &str) -> Vec<Resource> {
        let version = ModelVersion::from_digest([7; 32]);
        let model: ModelName = "tiny".parse().unwrap();
        let placement = Placement { region: region.parse().unwrap(), replicas_per_node };
        vec![
            Resource::Node(Node {
                key: node(),
                zone: "a".parse().unwrap(),
                kind: NodeKind::Agent(Agent {
                    ingress: "127.0.0.1:7443".parse().unwrap(),
                    server_name: "n1".to_owned(),
                }),
            }),
            Resource::Version(Version { version, model: model.clone(), source: source.to_owned() }),
            Resource::Deployment(Deployment {
                model,
                version,
                placements: vec![placement],
                engine: EngineSettings { step_time_ms: 20, ..EngineSettings::default() },
            }),
        ]
    }

    #[test]
    fn a_deployment_of_this_region_is_read() {
        let wanted = super::wanted(resources("us-east", 2, "file:///models/tiny").iter(), &node()).unwrap();
        let [share] = &wanted.replicas[..] else { panic!("{wanted:?}") };
        assert_eq!((share.count, share.recipe.slots), (2, 8));
        assert_eq!(share.recipe.model_dir, PathBuf::from("/models/tiny"));
        assert_eq!(share.recipe.served_name.as_str(), "tiny");
        assert_eq!(share.recipe.step_time, Duration::from_millis(20));
    }

    #[test]
    fn what_is_not_for_this_node_is_not_wanted_of_it() {
        let of = |resources: &[Resource]| super::wanted(resources.iter(), &node()).unwrap();
        assert_eq!(of(&resources("eu-west", 2, "file:///m")).replica_count(), 0);
        assert_eq!(of(&resources("us-east", 0, "file:///m")).replica_count(), 0);
        let unknown = of(&resources("us-east", 2, "file:///m")[1..]);
        assert_eq!((unknown.is_known, unknown.replica_count()), (false, 0));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_reason() {
        let refused = |resources: &[Resource]| super::wanted(resources.iter(), &node()).unwrap_err();
        let mut complete = resources("us-east", 2, "s3://models/tiny");
        assert!(refused(&complete).to_string().contains("s3://models/tiny"));
        assert!(matches!(refused(&resources("us-east", 2, "file://tiny")), Unusable::Source { .. }));
        complete.remove(1);
        assert!(matches!(refused(&complete), Unusable::NoVersion { .. }));
        let mut no_slots = resources("us-east", 2, "file:///m");
        let Resource::Deployment(deployment) = &mut no_slots[2] else { panic!() };
        deployment.engine.slots = 0;
        assert!(matches!(refused(&no_slots), Unusable::Engine { .. }));
    }

    /// What happens to a node between two plans.
    #[derive(Debug, Clone)]
    enum Step {
        Want(Vec<(u8, u8, u16)>),
        Serves(prop::sample::Index),
        Fails(prop::sample::Index),
        /// A draining one is gone.
        Ends(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let shares = [prop::option::of((0..3u8, 0..4u16)), prop::option::of((0..3u8, 0..4u16))];
        let want = shares.prop_map(|shares| {
            let share = |(model, share): (usize, Option<(u8, u16)>)| {
                share.map(|(variant, count)| (model as u8, variant, count))
            };
            shares.into_iter().enumerate().filter_map(share).filter(|(_, _, count)| *count > 0).collect()
        });
        prop_oneof![
            2 => want.prop_map(Step::Want),
            3 => any::<prop::sample::Index>().prop_map(Step::Serves),
            1 => any::<prop::sample::Index>().prop_map(Step::Fails),
            3 => any::<prop::sample::Index>().prop_map(Step::Ends),
        ]
    }

    /// Carries a plan out, and checks that it keeps the rules.
    fn carry_out(held: &mut BTreeMap<u16, Held>, wanted: &Wanted) -> Result<bool, TestCaseError> {
        let plan = plan(wanted, held, PLACES);
        for (number, recipe) in &plan.start {
            prop_assert!(*number < PLACES);
            let before = held.insert(*number, Held { recipe: recipe.clone(), progress: Coming });
            prop_assert!(before.is_none(), "the place was taken");
        }
        for number in &plan.drain {
            let ended = held.get_mut(number).unwrap();
            prop_assert_ne!(ended.progress, Draining, "ended twice");
            // Ended although it is wanted: only because there are more than enough of it.
            if let Some(share) = wanted.replicas.iter().find(|share| share.recipe == ended.recipe) {
                let recipe = share.recipe.clone();
                let lower =
                    held.range(..number).filter(|(_, it)| it.recipe == recipe && it.progress != Draining);
                prop_assert!(lower.count() >= usize::from(share.count), "a wanted replica was ended");
            }
            held.get_mut(number).unwrap().progress = Draining;
        }
        Ok(!plan.start.is_empty() || !plan.drain.is_empty())
    }

    fn is_reached(held: &BTreeMap<u16, Held>, wanted: &Wanted) -> bool {
        let count = |recipe: &Recipe| held.values().filter(|it| it.recipe == *recipe).count();
        let total: u32 = wanted.replica_count();
        let places = u32::from(PLACES);
        held.values().all(|it| wanted.replicas.iter().any(|share| share.recipe == it.recipe))
            && held.len() as u32 == total.min(places)
            && (total > places
                || wanted.replicas.iter().all(|share| count(&share.recipe) == usize::from(share.count)))
    }

    proptest! {
        #[test]
        fn what_is_wanted_is_reached_and_nothing_wanted_is_restarted(
            steps in prop::collection::vec(step(), 0..60),
            which_fail in any::<u8>(),
        ) {
            let mut wanted = Wanted::default();
            let mut held = BTreeMap::new();
            let pick = |held: &BTreeMap<u16, Held>, which: prop::sample::Index, is_meant: &dyn Fn(Progress) -> bool| {
                let meant = numbers(held, |it| is_meant(it.progress));
                (!meant.is_empty()).then(|| meant[which.index(meant.len())])
            };
            for step in steps {
                match step {
                    Step::Want(shares) => wanted = want(&shares),
                    Step::Serves(which) => if let Some(number) = pick(&held, which, &|it| matches!(it, Coming | Failing)) {
                        held.get_mut(&number).unwrap().progress = Serving;
                    },
                    Step::Fails(which) => if let Some(number) = pick(&held, which, &|it| matches!(it, Coming | Serving)) {
                        held.get_mut(&number).unwrap().progress = Failing;
                    },
                    Step::Ends(which) => if let Some(number) = pick(&held, which, &|it| it == Draining) {
                        held.remove(&number);
                    },
                }
                carry_out(&mut held, &wanted)?;
                prop_assert!(!carry_out(&mut held, &wanted)?, "a plan that is carried out leaves nothing to do");
            }
            // From here on nothing else is wanted, and everything comes to its end, well or badly.
            let mut rounds = 0;
            loop {
                held.retain(|_, it| it.progress != Draining);
                for (number, it) in &mut held {
                    if it.progress == Coming {
                        it.progress = if which_fail & (1 << number) == 0 { Serving } else { Failing };
                    }
                }
                if !carry_out(&mut held, &wanted)? && held.values().all(|it| matches!(it.progress, Serving | Failing)) {
                    break;
                }
                rounds += 1;
                prop_assert!(rounds < 20, "{:?} does not become {:?}", held, wanted);
            }
            prop_assert!(is_reached(&held, &wanted), "{:?} is not {:?}", held, wanted);
        }
    }
}
