//! What holds for every group, and a few groups in plain sight.

use proptest::prelude::*;

use super::*;

/// Members by number, their topics by number, and the partition count of each topic.
#[derive(Debug, Clone)]
struct Case {
    members: BTreeMap<String, Member>,
    partitions: BTreeMap<Uuid, i32>,
}

#[derive(Debug, Clone, Default)]
struct Member {
    instance: Option<String>,
    topics: BTreeSet<Uuid>,
    current: Assignment,
}

fn topic(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

impl Case {
    fn new(members: &[(&str, &[usize])], partitions: &[i32]) -> Self {
        let member = |topics: &[usize]| Member {
            topics: topics.iter().map(|number| topic(*number)).collect(),
            ..Member::default()
        };
        Self {
            members: members.iter().map(|(id, topics)| ((*id).to_owned(), member(topics))).collect(),
            partitions: partitions.iter().enumerate().map(|(at, count)| (topic(at), *count)).collect(),
        }
    }

    fn assign(&self, assignor: Assignor) -> BTreeMap<String, Assignment> {
        let specs: Vec<MemberSpec> = (self.members.iter())
            .map(|(id, member)| MemberSpec {
                id,
                instance_id: member.instance.as_deref(),
                topics: Arc::new(member.topics.clone()),
                current: &member.current,
            })
            .collect();
        let assigned = assignor.assign(&specs, &self.partitions);
        self.members.keys().cloned().zip(assigned).collect()
    }

    fn settle(&mut self, assignor: Assignor) {
        let assigned = self.assign(assignor);
        for (id, assignment) in assigned {
            self.members.get_mut(&id).unwrap().current = assignment;
        }
    }
}

fn load(assignment: &Assignment) -> usize {
    assignment.values().map(BTreeSet::len).sum()
}

/// Every partition that somebody reads has one owner, who reads it.
fn check_complete(case: &Case, assigned: &BTreeMap<String, Assignment>) {
    let mut owners: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
    for (id, assignment) in assigned {
        for (topic, partitions) in assignment {
            assert!(case.members[id].topics.contains(topic), "{id} does not read {topic}");
            assert!(!partitions.is_empty());
            for partition in partitions {
                assert!((0..case.partitions[topic]).contains(partition), "{topic}-{partition} does not exist");
                assert_eq!(owners.insert((*topic, *partition), id), None, "two owners");
            }
        }
    }
    let read = |topic: &Uuid| case.members.values().any(|member| member.topics.contains(topic));
    let expected: i32 = case.partitions.iter().filter(|(topic, _)| read(topic)).map(|(_, count)| *count).sum();
    assert_eq!(owners.len() as i32, expected, "a partition without an owner");
}

/// No partition can move from one reader to another and make the two more equal.
fn check_balanced(case: &Case, assigned: &BTreeMap<String, Assignment>) {
    for (id, assignment) in assigned {
        for topic in assignment.keys() {
            for (other, reader) in case.members.iter().filter(|(_, member)| member.topics.contains(topic)) {
                let (more, less) = (load(assignment), load(&assigned[other]));
                assert!(more <= less + 1, "{id} has {more} and {other}, which reads {topic}, has {less}: {reader:?}");
            }
        }
    }
}

fn moved(before: &BTreeMap<String, Assignment>, after: &BTreeMap<String, Assignment>) -> usize {
    let kept = |(id, assignment): (&String, &Assignment)| -> usize {
        let now = after.get(id).cloned().unwrap_or_default();
        let both = |(topic, partitions): (&Uuid, &BTreeSet<i32>)| {
            now.get(topic).map_or(0, |now| now.intersection(partitions).count())
        };
        assignment.iter().map(both).sum()
    };
    let had: usize = before.values().map(load).sum();
    had - before.iter().map(kept).sum::<usize>()
}

fn case() -> impl Strategy<Value = Case> {
    let partitions = prop::collection::vec(0..12i32, 1..5);
    let members =
        prop::collection::btree_map("[a-h]", (prop::collection::btree_set(0..4usize, 0..4), any::<bool>()), 1..8);
    (partitions, members, any::<bool>()).prop_map(|(partitions, members, same)| {
        let all: BTreeSet<usize> = (0..partitions.len()).collect();
        let member = |(id, (topics, is_static)): (String, (BTreeSet<usize>, bool))| {
            let topics = if same { all.clone() } else { topics.intersection(&all).copied().collect() };
            let member = Member {
                instance: is_static.then(|| format!("i-{id}")),
                topics: topics.into_iter().map(topic).collect(),
                current: Assignment::new(),
            };
            (id, member)
        };
        Case {
            members: members.into_iter().map(member).collect(),
            partitions: partitions.iter().enumerate().map(|(at, count)| (topic(at), *count)).collect(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_partition_has_one_owner_that_reads_it_and_the_same_input_gives_the_same(mut case in case(), other in case()) {
        for assignor in Assignor::ALL {
            let assigned = case.assign(assignor);
            check_complete(&case, &assigned);
            prop_assert_eq!(&assigned, &case.assign(assignor));
        }
        // Also when members hold what belongs to another group of subscriptions.
        case.settle(Assignor::Uniform);
        case.partitions = other.partitions.clone();
        for member in case.members.values_mut() {
            member.topics.retain(|topic| other.partitions.contains_key(topic));
        }
        for assignor in Assignor::ALL {
            check_complete(&case, &case.assign(assignor));
        }
    }

    #[test]
    fn uniform_is_balanced(mut case in case(), newcomer in "[i-z]") {
        check_balanced(&case, &case.assign(Assignor::Uniform));
        case.settle(Assignor::Uniform);
        let topics = case.partitions.keys().copied().collect();
        case.members.insert(newcomer, Member { topics, ..Member::default() });
        let assigned = case.assign(Assignor::Uniform);
        check_complete(&case, &assigned);
        check_balanced(&case, &assigned);
    }

    #[test]
    fn uniform_moves_nothing_when_nothing_changed(mut case in case()) {
        case.settle(Assignor::Uniform);
        let before = case.members.iter().map(|(id, member)| (id.clone(), member.current.clone())).collect();
        prop_assert_eq!(moved(&before, &case.assign(Assignor::Uniform)), 0);
    }

    #[test]
    fn uniform_moves_no_more_than_a_newcomer_gets_or_a_leaver_had(members in 1..9usize, partitions in 1..40i32) {
        let ids: Vec<String> = (0..=members).map(|at| format!("m{at}")).collect();
        let of = |ids: &[String]| {
            let members: Vec<(&str, &[usize])> = ids.iter().map(|id| (id.as_str(), &[0usize][..])).collect();
            Case::new(&members, &[partitions])
        };
        let mut smaller = of(&ids[..members]);
        smaller.settle(Assignor::Uniform);
        let mut larger = of(&ids);
        for (id, member) in &smaller.members {
            larger.members.insert(id.clone(), member.clone());
        }
        let before: BTreeMap<String, Assignment> =
            larger.members.iter().map(|(id, member)| (id.clone(), member.current.clone())).collect();
        let after = larger.assign(Assignor::Uniform);
        prop_assert_eq!(moved(&before, &after), load(&after[&ids[members]]));

        larger.settle(Assignor::Uniform);
        let mut left = larger.clone();
        let gone = left.members.remove("m0").unwrap();
        let before: BTreeMap<String, Assignment> =
            larger.members.iter().map(|(id, member)| (id.clone(), member.current.clone())).collect();
        prop_assert_eq!(moved(&before, &left.assign(Assignor::Uniform)), load(&gone.current));
    }
}

#[test]
fn range_gives_everybody_the_same_range_of_each_topic() {
    let case = Case::new(&[("a", &[0, 1]), ("b", &[0, 1]), ("c", &[1])], &[5, 3]);
    let assigned = case.assign(Assignor::Range);
    assert_eq!(assigned["a"], [(topic(0), [0, 1, 2].into()), (topic(1), [0].into())].into());
    assert_eq!(assigned["b"], [(topic(0), [3, 4].into()), (topic(1), [1].into())].into());
    assert_eq!(assigned["c"], [(topic(1), [2].into())].into());
}

#[test]
fn range_knows_static_members_by_their_instance_ids() {
    let mut case = Case::new(&[("a", &[0]), ("b", &[0]), ("z", &[0])], &[3]);
    case.members.get_mut("z").unwrap().instance = Some("i1".into());
    case.members.get_mut("b").unwrap().instance = Some("i2".into());
    let assigned = case.assign(Assignor::Range);
    assert_eq!(assigned["z"], [(topic(0), [0].into())].into());
    assert_eq!(assigned["b"], [(topic(0), [1].into())].into());
    assert_eq!(assigned["a"], [(topic(0), [2].into())].into());
}

#[test]
fn more_members_than_partitions_leaves_some_without() {
    let case = Case::new(&[("a", &[0]), ("b", &[0]), ("c", &[0])], &[2]);
    for assignor in Assignor::ALL {
        let assigned = case.assign(assignor);
        assert_eq!(assigned.values().map(load).collect::<Vec<_>>(), [1, 1, 0], "{assignor:?}");
    }
}

#[test]
fn nobody_gets_a_topic_that_is_not_there() {
    let case = Case::new(&[("a", &[0, 7])], &[1]);
    for assignor in Assignor::ALL {
        assert_eq!(case.assign(assignor)["a"], [(topic(0), [0].into())].into());
    }
}

#[test]
fn two_thousand_members_of_ten_thousand_partitions_are_assigned_in_good_time() {
    let ids: Vec<String> = (0..2_000).map(|at| format!("member-{at:04}")).collect();
    let topics: Vec<usize> = (0..10).collect();
    let members: Vec<(&str, &[usize])> = ids.iter().map(|id| (id.as_str(), &topics[..])).collect();
    let mut case = Case::new(&members, &[1_000; 10]);
    let began = std::time::Instant::now();
    case.settle(Assignor::Uniform);
    case.members.remove("member-0000");
    check_complete(&case, &case.assign(Assignor::Uniform));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
