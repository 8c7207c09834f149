//! One snapshot that several processes take, each with a cache folder of its own, as machines have.

use crate::kit::{Kit, said};

const COUNT: usize = 8;

fn with_many_folders() -> Kit {
    let kit = Kit::with_repo();
    for folder in 0..60 {
        for file in ["a.py", "b.py"] {
            kit.file(&format!("src/{}/{folder}/{file}", folder % 7), &format!("print('{folder} {file}')\n"));
        }
    }
    kit
}

fn part(kit: &Kit, index: usize) -> std::process::Command {
    let mut command = kit.command(&["backup", "--shard", &format!("{index}/{COUNT}"), "--host", "lake", "src"]);
    command.env("LAKEBED_SHARD_RUN", "night").env("LAKEBED_CACHE_DIR", kit.path(&format!("cache-{index}")));
    command
}

#[test]
fn a_part_that_was_killed_is_run_again_alone_and_the_whole_is_what_one_process_takes() {
    let kit = with_many_folders();
    let mut running: Vec<_> = (0..COUNT).map(|index| part(&kit, index).spawn().unwrap()).collect();
    // wherever it is by now
    running[3].kill().unwrap();
    let ended: Vec<_> = running.iter_mut().map(|child| child.wait().unwrap()).collect();
    assert!(ended.iter().enumerate().all(|(index, status)| index == 3 || status.success()), "{ended:?}");
    let before = kit.run(&["snapshots", "--json"]).exits(0).result();
    if !ended[3].success() {
        assert_eq!(before["snapshots"].as_array().unwrap().len(), 0, "{before:#}");
        kit.run(&["snapshots", "join", "night"]).exits(1).says("missing: 3");
        said(part(&kit, 3).output().unwrap()).exits(0).says("joined from 8 parts");
    }
    let joined = kit.run(&["snapshots", "--json"]).exits(0).result();
    assert_eq!(joined["snapshots"].as_array().unwrap().len(), 1, "{joined:#}");
    let joined = joined["snapshots"][0]["id"].as_str().unwrap().to_owned();
    kit.run(&["backup", "--host", "alone", "src"]).exits(0);
    let alone = kit.run(&["snapshots", "--host", "alone", "--json"]).exits(0).result();
    let alone = alone["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let differences = kit.run(&["diff", &joined, &alone]).exits(0);
    assert!(differences.out.lines().all(|line| !line.starts_with(['+', '-', 'M', 'T', 'U'])), "{differences:#?}");
    kit.run(&["prune"]).exits(0);
    kit.run(&["verify", "--read-data"]).exits(0);
    kit.run(&["restore", &joined, "--target", "out"]).exits(0);
    assert_eq!(kit.read("out/src/3/10/b.py"), "print('10 b.py')\n");
}

#[test]
fn a_run_that_lacks_parts_is_joined_on_request_and_says_so() {
    let kit = with_many_folders();
    said(part(&kit, 0).output().unwrap()).exits(0).says("whoever is last joins them");
    kit.run(&["snapshots"]).exits(0).says("no snapshots");
    kit.run(&["snapshots", "--shards"]).exits(0).says("part 0/8 of night");
    kit.run(&["restore", "latest", "--target", "out"]).exits(1);
    let joined = kit.run(&["snapshots", "join", "night", "--partial", "--json"]).exits(3).result();
    assert_eq!(joined["missing"].as_array().unwrap().len(), 7);
    kit.run(&["snapshots"]).exits(0).says("partial");
    kit.run(&["snapshots", "join", "day"]).exits(1).says("--shards");
    let other = kit.command(&["backup", "--shard", "1/4", "--shard-run", "night", "--host", "lake", "src"]).output();
    said(other.unwrap()).exits(1).says("this part was saved").says("number of parts");
}
