//! `forget`, its explanations, and the way back.

use serde_json::Value;

use crate::kit::Kit;

/// A kit with a snapshot of `src` for each of those moments, on a host of its own name.
fn nights(moments: &[&str]) -> Kit {
    let kit = Kit::with_repo();
    for moment in moments {
        kit.run(&["backup", "src", "--host", "node7", "--time", moment]).exits(0);
    }
    kit
}

fn three_nights() -> Kit {
    nights(&["2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z", "2026-01-03T02:00:00Z"])
}

fn ids(kit: &Kit, arguments: &[&str]) -> Vec<String> {
    let result = kit.run(&[&["--json", "snapshots"], arguments].concat()).exits(0).result();
    result["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_snapshot_gets_a_line_with_what_becomes_of_it_and_why() {
    let kit = three_nights();
    let all = ids(&kit, &[]);
    let said = kit.run(&["forget", "--keep-daily", "1", "--keep-tag", "gold"]).exits(0);
    let folder = kit.path("src").canonicalize().unwrap();
    let expected = [
        format!("host node7, {}: 1 kept, 2 forgotten", folder.display()),
        "ID Time Tags Why".into(),
        format!("forget {} 2026-01-01 02:00:00+00:00 no rule keeps it", &all[0][..8]),
        format!("forget {} 2026-01-02 02:00:00+00:00 no rule keeps it", &all[1][..8]),
        format!("keep {} 2026-01-03 02:00:00+00:00 daily 2026-01-03", &all[2][..8]),
        String::new(),
        "2 snapshots forgotten, 1 kept; `lakebed forget --undo ID` brings back what no prune has condemned".into(),
    ];
    let lines: Vec<String> = said.out.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, expected);
    assert_eq!(ids(&kit, &[]), all[2..]);
    kit.run(&["forget", "--keep-daily", "1"]).exits(0).says("nothing was forgotten, 1 snapshot kept");
    kit.run(&["forget", "--keep-daily", "1", "--quiet"]).exits(0);
    kit.run(&["verify", "--read-data"]).exits(0);
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let kit = three_nights();
    let objects = || lakebed_testkit::damage::object_files(&kit.path("repo"));
    let before = objects();
    let dry = kit.run(&["forget", "--keep-last", "2", "--dry-run"]).exits(0);
    let dry = dry.says("no rule keeps it").says("last 2 of 2").says("dry run: 1 of 3 snapshots would be forgotten");
    assert_eq!(objects(), before);
    let quiet = kit.run(&["forget", "--keep-last", "2", "--dry-run", "--quiet"]).exits(0);
    assert_eq!(quiet.out, dry.out, "what was asked for is answered");
    let real = kit.run(&["forget", "--keep-last", "2"]).exits(0);
    let table = |text: &str| text.lines().take(5).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(table(&real.out), table(&dry.out));
}

#[test]
fn rules_go_together_and_all_means_all() {
    let kit = nights(&[
        "2024-05-01T02:00:00Z",
        "2025-06-01T02:00:00Z",
        "2025-12-31T02:00:00Z",
        "2026-01-02T02:00:00Z",
        "2026-01-02T14:00:00Z",
    ]);
    let out = kit
        .run(&[
            "forget",
            "-n",
            "--keep-last",
            "1",
            "--keep-hourly",
            "1",
            "--keep-weekly",
            "2",
            "--keep-monthly",
            "2",
            "--keep-quarterly",
            "3",
            "--keep-yearly",
            "all",
            "--keep-within",
            "12h",
        ])
        .exits(0)
        .out;
    for why in [
        "yearly 2024",
        "weekly 2025-W22, quarterly 2025-Q2",
        "monthly 2025-12, quarterly 2025-Q4, yearly 2025",
        "no rule keeps it",
        "last 1 of 1, hourly 2026-01-02 14:00+00:00, weekly 2026-W01, monthly 2026-01, quarterly 2026-Q1, yearly 2026, \
         within 12h",
    ] {
        assert!(out.lines().any(|line| line.ends_with(&format!("  {why}"))), "{why} in {out}");
    }
}

#[test]
fn days_begin_where_the_clock_on_the_wall_says() {
    let kit = nights(&["2026-01-01T22:30:00Z", "2026-01-01T23:30:00Z"]);
    let kept = |zone: &str| {
        let mut command = kit.command(&["--json", "forget", "--keep-daily", "1", "--dry-run"]);
        let said = crate::kit::said(command.env("TZ", zone).output().unwrap()).exits(0);
        said.result()["groups"][0]["snapshots"][1]["reasons"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(kept("UTC"), "daily 2026-01-01");
    assert_eq!(kept("Europe/Berlin"), "daily 2026-01-02");
}

#[test]
fn what_is_named_goes_and_can_be_brought_back() {
    let kit = three_nights();
    let all = ids(&kit, &[]);
    kit.run(&["forget", &all[0][..12], "@2026-01-02"]).exits(0).says("by id").says("1 not chosen");
    assert_eq!(ids(&kit, &[]), all[2..]);
    kit.run(&["ls", &all[0][..12]]).exits(1).says("lakebed snapshots --forgotten");
    assert_eq!(ids(&kit, &["--forgotten"]), all[..2]);
    let listed = kit.run(&["snapshots", "--forgotten"]).exits(0);
    listed.says("Forgotten").says("by id").says("2 forgotten snapshots");
    assert_eq!(ids(&kit, &["--forgotten", "--until", "2026-01-01"]), all[..1]);

    kit.run(&["forget", "--undo", &all[0][..12]]).exits(0).says(&format!("snapshot {} is back", &all[0][..8]));
    assert_eq!(ids(&kit, &[]), [all[0].clone(), all[2].clone()]);
    let undone = kit.run(&["--json", "forget", "--undo", "all"]).exits(0).result();
    assert_eq!(undone["undone"], serde_json::json!([all[1]]));
    assert_eq!(ids(&kit, &[]), all);
    kit.run(&["forget", "--undo", "all"]).exits(0).says("no forgotten snapshots");
    kit.run(&["snapshots", "--forgotten"]).exits(0).says("no forgotten snapshots");
}

#[test]
fn errors_name_the_thing_and_what_to_do() {
    let kit = three_nights();
    let all = ids(&kit, &[]);
    kit.run(&["forget"]).exits(2).says("No rule says what is to be kept").says("Hint: give --keep-last");
    kit.run(&["forget", "--keep-last", "0"]).exits(2).says("No rule says");
    kit.run(&["forget", "--keep-tag", ""]).exits(2).says("--keep-tag names no tag");
    kit.run(&["forget", "--keep-last", "some"]).exits(2).says("expected a number, or `all`, found `some`");
    kit.run(&["forget", "--keep-within", "3x"]).exits(2).says("`30d`").says("found `3x`");
    kit.run(&["forget", "--group-by", "paths", "--keep-last", "1"]).exits(2).says("found `paths`");
    let emptied = kit.run(&["forget", "--keep-tag", "none"]).exits(1);
    emptied.says("No snapshot of host node7, file://").says("3 would be forgotten").says("say --allow-empty");
    kit.run(&["forget", "ffffffffffff"]).exits(1).says("No snapshot matches `ffffffffffff`");
    kit.run(&["forget", "--undo", &all[0][..12]]).exits(1).says("is not forgotten");
    kit.run(&["forget", "--undo", "ffffffffffff"]).exits(1).says("No snapshot matches");
    kit.run(&["forget", "--undo", "all", &all[0][..12]]).exits(2).says("`all` names no forgotten snapshot");
    kit.run(&["forget", "--undo"]).exits(2);
    assert_eq!(ids(&kit, &[]), all, "nothing was forgotten");

    let some = [&["forget"], &all.iter().map(|id| &id[..12]).collect::<Vec<_>>()[..]].concat();
    kit.run(&some).exits(1).says("--allow-empty");
    kit.run(&[&some[..], &["--allow-empty"]].concat()).exits(0).says("3 snapshots forgotten, 0 kept");
    kit.run(&["snapshots"]).exits(0).says("no snapshots");
    kit.run(&["forget", "--keep-last", "1"]).exits(0).says("nothing was forgotten, 0 snapshots kept");
    kit.run(&["forget", "--undo", "all"]).exits(0);
    kit.run(&["forget", "--allow-empty", "--host", "node7"]).exits(0).says("3 snapshots forgotten");
}

#[test]
fn partial_snapshots_are_marked_and_damaged_records_told_of() {
    let kit = Kit::with_repo();
    for moment in ["2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z"] {
        kit.run(&["backup", "src", "other", "--time", moment]).exits(if kit.path("other").exists() { 0 } else { 3 });
        kit.file("other/there", "by the second night");
    }
    std::fs::remove_dir_all(kit.path("other")).unwrap();
    for moment in ["2026-01-03T02:00:00Z", "2127-01-04T02:00:00Z"] {
        kit.run(&["backup", "src", "other", "--time", moment]).exits(3);
    }
    let out = kit.run(&["forget", "--keep-last", "1", "--dry-run"]).exits(0).out;
    for why in [
        "no rule keeps it; partial",
        "newest complete one",
        "no rule keeps it; partial",
        "last 1 of 1; partial; lies in the future",
    ] {
        assert!(out.lines().any(|line| line.ends_with(&format!("  {why}"))), "{why} in {out}");
    }
    let damaged = ids(&kit, &[]).remove(1);
    let record = kit.path(&format!("repo/snapshots/{damaged}"));
    lakebed_testkit::damage::damage(&record, lakebed_testkit::damage::Damage::FlipByte { offset: 60, mask: 1 }).keep();
    let said = kit.run(&["forget", "--keep-last", "1"]).exits(4).says("2 snapshots forgotten");
    assert!(said.err.contains(&format!("warning: The object `snapshots/{damaged}` is damaged")), "{said:#?}");
    assert!(record.exists());
}

#[test]
fn json_has_every_decision() {
    let kit = three_nights();
    let all = ids(&kit, &[]);
    kit.run(&["tag", &all[0], "--add", "gold"]).exits(0);
    let plan = kit.run(&["--json", "forget", "--keep-last", "1", "--keep-tag", "gold", "--dry-run"]).exits(0).result();
    assert_eq!(plan["dry_run"], true, "{plan:#}");
    assert_eq!(plan["rule"], "keep last 1, tag gold");
    assert_eq!(plan["forgotten"], serde_json::json!([all[1]]));
    assert_eq!(plan["damaged"], serde_json::json!([]));
    let group = &plan["groups"][0];
    assert_eq!((&group["host"], &group["tags"], &group["not_chosen"]), (&"node7".into(), &Value::Null, &0.into()));
    assert!(group["sources"][0].as_str().unwrap().starts_with("file:///"), "{group:#}");
    let decisions: Vec<_> = group["snapshots"].as_array().unwrap().iter().map(|s| s["decision"].clone()).collect();
    assert_eq!(decisions, ["keep", "forget", "keep"]);
    let first = &group["snapshots"][0];
    assert_eq!(first["reasons"], serde_json::json!([{ "rule": "tag", "text": "tag gold" }]), "{first:#}");
    assert_eq!((&first["complete"], &first["in_future"]), (&true.into(), &false.into()));
    let done = kit.run(&["--json", "forget", "--keep-last", "1", "--group-by", "none"]).exits(0).result();
    assert_eq!((&done["dry_run"], &done["groups"][0]["host"]), (&false.into(), &Value::Null));
    let forgotten = kit.run(&["--json", "snapshots", "--forgotten"]).exits(0).result();
    assert_eq!(forgotten["snapshots"][0]["forgotten"]["rule"], "keep last 1", "{forgotten:#}");
    assert!(forgotten["snapshots"][0]["forgotten"]["time"].is_string());
}
