//! Which tasks of the collection ran on a host: the tasks by their files, what ran by what Ansible prints with verbosity 2, a line
//! `task path: FILE:LINE` for each task and then one for each host. Pure.

use std::collections::BTreeSet;

use super::EXCEPTIONS;

/// The folder of the collection, behind which a file is called as in the checkout.
const COLLECTION: &str = "ansible_collections/seawall/cluster/";

/// A file of the collection and a line.
pub type Place = (String, usize);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub place: Place,
    pub name: String,
}

/// Of a file of tasks or handlers, or a playbook. Every task has a name, which ansible-lint sees to; plays and blocks have one too.
pub fn tasks_of(file: &str, text: &str) -> Vec<Task> {
    let lines: Vec<&str> = text.lines().collect();
    let named =
        lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.trim_start().strip_prefix("- name: ")?)));
    let tasks = named.filter(|(at, _)| {
        let own = keys(&lines, *at);
        !["hosts", "import_playbook", "ansible.builtin.import_playbook", "block"].iter().any(|key| own.contains(key))
    });
    tasks.map(|(at, name)| Task { place: (file.to_owned(), at + 1), name: name.trim().to_owned() }).collect()
}

/// The keys of the item that begins at a line.
fn keys<'a>(lines: &[&'a str], at: usize) -> Vec<&'a str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let own = indent(lines[at]) + 2;
    let item = lines[at + 1..].iter().take_while(|line| line.trim().is_empty() || indent(line) >= own);
    item.filter(|line| indent(line) == own).filter_map(|line| line.trim().split_once(':')).map(|(key, _)| key).collect()
}

/// Of the tasks in a play's output, those that did anything on one of `hosts`, a failure included. What was skipped did not.
pub fn ran(output: &str, hosts: &[&str]) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    let mut place = None;
    for line in output.lines() {
        if line.starts_with("TASK [") || line.starts_with("RUNNING HANDLER [") || line.starts_with("PLAY ") {
            place = None;
        } else if let Some(path) = line.strip_prefix("task path: ") {
            place = place_of(path);
        } else if let Some(place) = &place
            && hosts_of(line).iter().any(|host| hosts.contains(host))
        {
            found.insert(place.clone());
        }
    }
    found
}

fn place_of(path: &str) -> Option<Place> {
    let (_, path) = path.trim().rsplit_once(COLLECTION)?;
    let (file, line) = path.rsplit_once(':')?;
    Some((file.to_owned(), line.parse().ok()?))
}

/// That a line of a result speaks of: `ok: [v1]`, `changed: [v1 -> localhost] => (item=...)`, `included: FILE for h1, v1`.
fn hosts_of(line: &str) -> Vec<&str> {
    if let Some(included) = line.strip_prefix("included: ") {
        let hosts = included.rsplit_once(" for ").map_or("", |(_, hosts)| hosts);
        return hosts.split(" => ").next().unwrap_or_default().split(", ").map(str::trim).collect();
    }
    let Some((what, rest)) = line.split_once(": [") else { return Vec::new() };
    let did = ["ok", "changed", "failed", "fatal"].contains(&what) && !rest.contains("]: UNREACHABLE!");
    let host = rest.split([']', ' ']).next();
    host.filter(|_| did).into_iter().collect()
}

/// What never ran and is no exception, and exceptions that are none: they ran, or there is no such task.
pub fn faults(tasks: &[Task], ran: &BTreeSet<Place>) -> Vec<String> {
    let excepted = |task: &Task| EXCEPTIONS.iter().any(|(file, name, _)| task.place.0 == *file && task.name == *name);
    let never = tasks.iter().filter(|task| !ran.contains(&task.place) && !excepted(task));
    let mut faults: Vec<String> =
        never.map(|task| format!("{}:{} never ran: {}", task.place.0, task.place.1, task.name)).collect();
    for (file, name, _) in EXCEPTIONS {
        let mut named = tasks.iter().filter(|task| task.place.0 == file && task.name == name);
        if !named.any(|task| !ran.contains(&task.place)) {
            faults.push(format!("{file}: \"{name}\" is an exception, and it ran or is no task"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAYBOOK: &str = "---\n# A comment.\n- name: A play\n  hosts: all\n  tasks:\n    - name: One\n      ansible.builtin.ping:\n\n    \
                            - name: Look\n      ansible.builtin.include_role:\n        name: seawall.cluster.device\n      when: x\n\n\
                            - name: Another\n  ansible.builtin.import_playbook: site.yml\n";
    const ROLE: &str = "---\n- name: Both\n  when: y\n  block:\n    - name: In it\n      ansible.builtin.shell:\n        cmd: |\n          \
                        block: no key\n  rescue:\n    - name: What it says\n      ansible.builtin.fail:\n";

    #[test]
    fn plays_and_blocks_are_no_tasks_and_what_lies_in_them_is() {
        let tasks = |file, text| -> Vec<(usize, String)> {
            tasks_of(file, text).into_iter().map(|task| (task.place.1, task.name)).collect()
        };
        assert_eq!(tasks("playbooks/a.yml", PLAYBOOK), [(6, "One".to_owned()), (9, "Look".to_owned())]);
        assert_eq!(tasks("roles/a.yml", ROLE), [(5, "In it".to_owned()), (10, "What it says".to_owned())]);
    }

    const OUTPUT: &str = "PLAY [A play] ****\n\
        TASK [Gathering Facts] ***\ntask path: /tmp/x/ansible_collections/seawall/cluster/playbooks/a.yml:3\nok: [v1]\n\
        TASK [Look] ****\ntask path: /tmp/x/ansible_collections/seawall/cluster/playbooks/a.yml:9\n\
        included: /tmp/x/roles/device/tasks/plan.yml for h1, v1 => (item=plan.yml)\n\
        TASK [r : skipped] ***\ntask path: /tmp/x/ansible_collections/seawall/cluster/roles/r/tasks/a.yml:1\n\
        skipping: [v1] => (item=a) => {\"ok\": \"ok: [v1]\"}\nskipping: [v1] => {}\nok: [h1] => {}\n\
        TASK [r : some items] ***\ntask path: /tmp/x/ansible_collections/seawall/cluster/roles/r/tasks/a.yml:2\n\
        skipping: [v1] => (item=a)\nchanged: [v1 -> localhost] => (item=b)\n\
        TASK [r : failed] ***\ntask path: /tmp/x/ansible_collections/seawall/cluster/roles/r/tasks/a.yml:3\n\
        FAILED - RETRYING: [v1]: (5 retries left).\nfatal: [v1]: FAILED! => {\"msg\": \"said\"}\n\
        TASK [r : away] ***\ntask path: /tmp/x/ansible_collections/seawall/cluster/roles/r/tasks/a.yml:4\n\
        fatal: [v1]: UNREACHABLE! => {}\n\
        TASK [elsewhere] ***\ntask path: /tmp/two.yml:2\nchanged: [v1]\n\
        RUNNING HANDLER [r : tell] ***\ntask path: /tmp/x/ansible_collections/seawall/cluster/roles/r/handlers/main.yml:2\nchanged: [v1] => {}\n\
        PLAY RECAP ***\nv1 : ok=3\n";

    #[test]
    fn what_was_skipped_or_not_reached_did_not_run_and_what_failed_did() {
        let ran = ran(OUTPUT, &["v1", "localhost"]);
        let places: Vec<(&str, usize)> = ran.iter().map(|(file, line)| (file.as_str(), *line)).collect();
        let tasks = "roles/r/tasks/a.yml";
        assert_eq!(
            places,
            [("playbooks/a.yml", 3), ("playbooks/a.yml", 9), ("roles/r/handlers/main.yml", 2), (tasks, 2), (tasks, 3)]
        );
    }

    #[test]
    fn a_task_that_never_ran_is_a_fault_and_so_is_an_exception_that_did() {
        let all: Vec<Task> = super::super::collection_tasks().unwrap();
        let places: BTreeSet<Place> = all.iter().map(|task| task.place.clone()).collect();
        assert_eq!(faults(&all, &places).len(), EXCEPTIONS.len());
        let is_exception =
            |task: &Task| EXCEPTIONS.iter().any(|(file, name, _)| task.place.0 == *file && task.name == *name);
        let ran: BTreeSet<Place> =
            all.iter().filter(|task| !is_exception(task)).map(|task| task.place.clone()).collect();
        assert_eq!(faults(&all, &ran), Vec::<String>::new());
        assert_eq!(faults(&all, &BTreeSet::new()).len(), ran.len());
        assert!(all.iter().any(|task| task.place.0 == "roles/monitoring/tasks/main.yml"));
        assert!(ran.len() > 100, "{} tasks were found", ran.len());
    }
}
