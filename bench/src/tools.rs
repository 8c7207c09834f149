//! The tools that are compared, and the floors: command lines with places to fill in.
//!
//! `{tool}` the program, `{repo}` the repository, `{above}` and `{name}` the folder above the source and the source's own
//! name, `{step}` a name for the snapshot, `{older}` those of the snapshots before, `{to}` an empty folder, `{file}` a
//! small file below the source, `{out}` where its content goes, `{home}` a folder for what the tool keeps.

/// One tool.
#[derive(Debug, Clone)]
pub struct Tool {
    pub name: &'static str,
    pub init: &'static str,
    pub backup: &'static str,
    pub restore: &'static str,
    /// Where the source is then.
    pub restored: &'static str,
    pub one_file: &'static str,
    pub verify: &'static str,
    pub prune: &'static str,
    /// It works in buckets by itself.
    pub speaks_s3: bool,
    /// Variables, beside `HOME`.
    pub env: &'static [(&'static str, &'static str)],
}

/// lakebed first, then its peers.
pub const TOOLS: [Tool; 5] = [
    Tool {
        name: "lakebed",
        init: "{tool} init --repo {repo}",
        backup: "cd {above} && {tool} backup --repo {repo} {name}",
        restore: "{tool} restore --repo {repo} latest --target {to}",
        restored: "{to}/{name}",
        one_file: "{tool} cat --repo {repo} latest {name}/{file} > {out}",
        verify: "{tool} verify --repo {repo} --read-data",
        prune: "{tool} forget --repo {repo} --keep-last 1 --prune --exclusive",
        speaks_s3: true,
        env: &[("LAKEBED_PASSWORD", "benchmark")],
    },
    Tool {
        name: "restic",
        init: "{tool} init -q -r {repo}",
        backup: "cd {above} && {tool} backup -q --no-scan -r {repo} {name}",
        restore: "{tool} restore -q -r {repo} latest --target {to}",
        restored: "{to}/{name}",
        one_file: "{tool} dump -q -r {repo} latest {name}/{file} > {out}",
        verify: "{tool} check -q --read-data -r {repo}",
        prune: "{tool} forget -q -r {repo} --keep-last 1 --prune",
        speaks_s3: true,
        env: &[("RESTIC_PASSWORD", "benchmark")],
    },
    Tool {
        name: "rustic",
        init: "{tool} init -r {repo}",
        backup: "cd {above} && {tool} backup -r {repo} --no-scan {name}",
        restore: "{tool} restore -r {repo} latest {to}",
        restored: "{to}/{name}",
        one_file: "{tool} dump -r {repo} latest:{name}/{file} > {out}",
        verify: "{tool} check -r {repo} --read-data",
        prune: "{tool} forget -r {repo} --keep-last 1 --prune --instant-delete",
        speaks_s3: true,
        env: &[("RUSTIC_PASSWORD", "benchmark"), ("RUSTIC_NO_PROGRESS", "true"), ("RUSTIC_LOG_LEVEL", "warn")],
    },
    Tool {
        name: "borg",
        init: "{tool} init -e repokey {repo}",
        backup: "cd {above} && {tool} create -C zstd,3 {repo}::{step} {name}",
        restore: "cd {to} && {tool} extract {repo}::{step}",
        restored: "{to}/{name}",
        one_file: "{tool} extract --stdout {repo}::{step} {name}/{file} > {out}",
        verify: "{tool} check --verify-data {repo}",
        prune: "{tool} prune --keep-last 1 {repo} && {tool} compact --threshold 10 {repo}",
        speaks_s3: false,
        env: &[("BORG_PASSPHRASE", "benchmark"), ("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes")],
    },
    // it has no command that checks: the newest snapshot is read
    Tool {
        name: "bupstash",
        init: "{tool} init -r {repo} && {tool} new-key -o {home}/backup.key",
        backup: "cd {above} && {tool} put -q step={step} {name}",
        restore: "{tool} restore -q --into {to} step={step}",
        restored: "{to}",
        one_file: "{tool} get -q --pick {file} step={step} > {out}",
        verify: "{tool} get -q step={step} > /dev/null",
        prune: "for s in {older}; do {tool} rm -q step=$s; done; {tool} gc -q",
        speaks_s3: false,
        env: &[("BUPSTASH_KEY", "{home}/backup.key"), ("BUPSTASH_REPOSITORY", "{repo}")],
    },
];

/// A backup by lakebed, taken by eight machines: processes with a home each.
pub const EIGHT_SHARDS: &str = "cd {above} && pids= && for i in 0 1 2 3 4 5 6 7; do mkdir -p {home}/$i && \
    HOME={home}/$i {tool} backup --shard $i/8 --shard-run {step} --host shards --repo {repo} {name} & \
    pids=\"$pids $!\"; done; all=0; for pid in $pids; do wait $pid || all=1; done; exit $all";

/// What the least is that a phase could do: name, command line. They run in this order, in an empty folder `{to}`.
pub const FLOORS: [(&str, &str); 4] = [
    ("tar | zstd -3 -T2", "tar -C {above} -cf - {name} | zstd -q -3 -T2 -o {to}/floor.tar.zst"),
    ("find -printf", "find {above}/{name} -printf '%s %T@ %p\\n' > /dev/null"),
    ("zstd -d", "zstd -qdc {to}/floor.tar.zst > /dev/null"),
    ("zstd -d | tar x", "mkdir {to}/floor && zstd -qdc {to}/floor.tar.zst | tar -C {to}/floor -xpf -"),
];

/// Fills places in.
pub fn fill(line: &str, places: &[(&str, String)]) -> String {
    let mut filled = line.to_owned();
    for (place, value) in places {
        filled = filled.replace(&format!("{{{place}}}"), value);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled() {
        let places = ["tool", "repo", "above", "name", "step", "older", "to", "file", "out", "home"];
        let places: Vec<(&str, String)> = places.into_iter().map(|place| (place, "x".to_owned())).collect();
        for tool in &TOOLS {
            for line in [tool.init, tool.backup, tool.restore, tool.restored, tool.one_file, tool.verify, tool.prune] {
                let filled = fill(line, &places);
                assert!(!filled.contains(['{', '}']), "{filled}");
            }
        }
    }
}
