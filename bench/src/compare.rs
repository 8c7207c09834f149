//! lakebed and its peers through the nights of one source.
//!
//! With `--endpoint` the repositories lie in a bucket, each behind a network of its own that lets requests wait and carries
//! no more than is said, and lakebed comes twice more: with a folder, and as eight machines that take each snapshot together.
//!
//! How it is kept fair: in each phase the tools come one after the other, another one first each round; what is read is
//! read once before, so that it is in memory; each tool has a repository and a home of its own; what was restored is
//! compared and stays, since ext4 without a journal makes creating files slow for minutes after many were deleted.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Failure;
use crate::measure::{Figures, bytes_below, measure, shell};
use crate::place::{BucketArgs, Place, read_through};
use crate::report::{Record, print};
use crate::source::{Kind, change, make};
use crate::tools::{EIGHT_SHARDS, FLOORS, TOOLS, Tool, fill};

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folder for sources, repositories and restored trees; several times the source is needed
    work: PathBuf,
    /// The source that is made
    #[arg(long, value_enum, default_value = "notebooks")]
    workload: Kind,
    /// Take this folder instead; it is only read, and changes only by `--change`
    #[arg(long, conflicts_with = "endpoint")]
    source: Option<PathBuf>,
    /// What moves `--source` forward by a day, for the shell
    #[arg(long, requires = "source")]
    change: Option<String>,
    /// Part of the full size
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How often everything is done
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Days of changes
    #[arg(long, default_value_t = 1)]
    days: u64,
    /// The lakebed to measure
    #[arg(long)]
    lakebed: PathBuf,
    /// Put in front of each command, such as `taskset -c 0`
    #[arg(long, default_value = "")]
    under: String,
    #[command(flatten)]
    bucket: BucketArgs,
}

/// A tool in one round.
struct Contender {
    name: String,
    tool: Tool,
    program: String,
    place: Place,
    /// How the tool is told of the place.
    repo: String,
    home: PathBuf,
    steps: Vec<String>,
}

fn on_path(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    found.map(|program| program.display().to_string())
}

pub fn run(arguments: &CompareArgs) -> Result<(), Failure> {
    std::fs::create_dir_all(&arguments.work)?;
    let work = std::path::absolute(&arguments.work)?;
    let lakebed = std::path::absolute(&arguments.lakebed)?.display().to_string();
    let mut tools: Vec<(Tool, String)> = Vec::new();
    for tool in TOOLS {
        match if tool.name == "lakebed" { Some(lakebed.clone()) } else { on_path(tool.name) } {
            Some(program) => tools.push((tool, program)),
            None => println!("{} is not on PATH: left out", tool.name),
        }
    }
    let mut records = Vec::new();
    for round in 0..arguments.rounds {
        let folder = work.join(format!("round-{}-{round}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let source = match &arguments.source {
            Some(source) => std::path::absolute(source)?,
            None => {
                let source = folder.join("source");
                make(arguments.workload, &source, arguments.scale)?;
                source
            }
        };
        Round { arguments, round, folder, source, records: &mut records }.run(&tools)?;
    }
    let mut phases: Vec<String> = Vec::new();
    for record in &records {
        if !phases.contains(&record.phase) && !record.phase.is_empty() {
            phases.push(record.phase.clone());
        }
    }
    for (name, _) in FLOORS.iter().filter(|_| !arguments.bucket.is_asked_for()) {
        let all: Vec<f64> = records.iter().filter(|r| r.tool == *name).map(|r| r.figures.wall).collect();
        println!(
            "floor, wall time: {name}: {}",
            all.iter().map(|s| format!("{s:.2} s")).collect::<Vec<_>>().join(", ")
        );
    }
    records.retain(|record| !record.phase.is_empty());
    print(&records, &phases);
    Ok(())
}

struct Round<'a> {
    arguments: &'a CompareArgs,
    round: usize,
    folder: PathBuf,
    source: PathBuf,
    records: &'a mut Vec<Record>,
}

impl Round<'_> {
    fn run(&mut self, tools: &[(Tool, String)]) -> Result<(), Failure> {
        let mut contenders = Vec::new();
        let prefix = self.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for (tool, program) in tools {
            match self.arguments.bucket.place(format!("{prefix}-{}", tool.name))? {
                None => contenders.push(self.contender(tool, program, "", None)?),
                Some(_) if !tool.speaks_s3 => {}
                Some(place) => contenders.push(self.contender(tool, program, "", Some(place))?),
            }
        }
        if let (true, Some((tool, program))) = (self.arguments.bucket.is_asked_for(), tools.first()) {
            contenders.push(self.contender(tool, program, ", folder", None)?);
            let place = self.arguments.bucket.place(format!("{prefix}-shards"))?;
            let sharded = Tool { backup: EIGHT_SHARDS, ..tool.clone() };
            contenders.push(self.contender(&sharded, program, ", 8 shards", place)?);
        } else {
            self.floors()?;
        }
        let first = self.round % contenders.len();
        contenders.rotate_left(first);
        for contender in &contenders {
            self.measure(contender, contender.tool.init, &[])?;
        }
        self.night(&mut contenders, "initial")?;
        self.night(&mut contenders, "no change")?;
        for day in 1..=self.arguments.days {
            match &self.arguments.source {
                None => change(self.arguments.workload, &self.source, self.arguments.scale, day)?,
                Some(_) => self.arguments.change.as_deref().map_or(Ok(()), shell)?,
            }
            self.night(&mut contenders, &format!("day {day}"))?;
        }
        let small = small_file(&self.source)?;
        for contender in &contenders {
            contender.place.read_through()?;
            let to = self.folder.join(format!("restored-{}", contender.name.replace([',', ' '], "-")));
            std::fs::create_dir_all(&to)?;
            let places = [("to", to.display().to_string()), ("name", self.name())];
            self.phase(contender, "restore", contender.tool.restore, &places)?;
            let restored = fill(contender.tool.restored, &places);
            shell(&format!("diff -r {} {restored}", self.source.display()))?;
        }
        for contender in &contenders {
            self.one_file(contender, "one file", &small)?;
        }
        for contender in &contenders {
            contender.place.read_through()?;
            self.phase(contender, "verify", contender.tool.verify, &[])?;
        }
        if self.arguments.bucket.is_asked_for() {
            for contender in &mut contenders {
                contender.home = self.folder.join(format!("new-home-{}", contender.name.replace([',', ' '], "-")));
                std::fs::create_dir_all(&contender.home)?;
                contender.repo = contender.place.told(contender.tool.name, &contender.home)?;
            }
            for contender in &contenders {
                self.one_file(contender, "one file, new machine", &small)?;
            }
        }
        for contender in &contenders {
            self.phase(contender, "prune", contender.tool.prune, &[])?;
        }
        Ok(())
    }

    fn contender(&self, tool: &Tool, program: &str, suffix: &str, place: Option<Place>) -> Result<Contender, Failure> {
        let name = format!("{}{suffix}", tool.name);
        let home = self.folder.join(format!("home-{}", name.replace([',', ' '], "-")));
        std::fs::create_dir_all(&home)?;
        let place = place.unwrap_or_else(|| Place::Folder(self.folder.join(format!("repo-{}", tool.name))));
        let repo = place.told(tool.name, &home)?;
        Ok(Contender { name, tool: tool.clone(), program: program.into(), place, repo, home, steps: Vec::new() })
    }

    fn one_file(&mut self, contender: &Contender, phase: &str, small: &Path) -> Result<(), Failure> {
        let out = self.folder.join("one-file");
        let places = [("file", small.display().to_string()), ("out", out.display().to_string())];
        self.phase(contender, phase, contender.tool.one_file, &places)?;
        shell(&format!("cmp {} {}", self.source.join(small).display(), out.display()))
    }

    fn name(&self) -> String {
        self.source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn floors(&mut self) -> Result<(), Failure> {
        let to = self.folder.join("floors");
        std::fs::create_dir_all(&to)?;
        read_through(&self.source)?;
        for (name, line) in FLOORS {
            let above = self.source.parent().unwrap_or(Path::new("/")).display().to_string();
            let line = fill(line, &[("above", above), ("name", self.name()), ("to", to.display().to_string())]);
            let figures = measure(&line, &[], &self.folder)?;
            self.records.push(Record {
                round: self.round,
                tool: name.into(),
                phase: String::new(),
                figures,
                stored: bytes_below(&to)?,
                requests: 0,
            });
        }
        Ok(())
    }

    fn night(&mut self, contenders: &mut [Contender], phase: &str) -> Result<(), Failure> {
        for contender in contenders {
            contender.steps.push(format!("s{}", contender.steps.len()));
            read_through(&self.source)?;
            self.phase(contender, phase, contender.tool.backup, &[])?;
        }
        Ok(())
    }

    fn phase(
        &mut self,
        contender: &Contender,
        phase: &str,
        line: &str,
        places: &[(&str, String)],
    ) -> Result<(), Failure> {
        shell("sync")?;
        let before = contender.place.requests(0).len();
        let figures = self.measure(contender, line, places)?;
        let sent = contender.place.requests(before);
        let requests = sent.len() as u64;
        let stored = contender.place.stored()?;
        println!(
            "round {}: {phase}: {}: {:.2} s, {:.2} s of processor time, {:.0} MiB, {:.1} MB stored, {requests} requests",
            self.round + 1,
            contender.name,
            figures.wall,
            figures.cpu,
            figures.rss,
            stored as f64 / 1e6
        );
        for request in sent.iter().filter(|_| self.arguments.bucket.lists_requests()) {
            let (status, bytes) = (request.status.unwrap_or_default(), request.request_bytes + request.response_bytes);
            println!("  {status} {} {} {bytes}", request.method, request.target);
        }
        let (tool, phase) = (contender.name.clone(), phase.to_owned());
        self.records.push(Record { round: self.round, tool, phase, figures, stored, requests });
        Ok(())
    }

    fn measure(&self, contender: &Contender, line: &str, places: &[(&str, String)]) -> Result<Figures, Failure> {
        let (step, older) = contender.steps.split_last().map_or(("", &[][..]), |(last, older)| (last.as_str(), older));
        let above = self.source.parent().unwrap_or(Path::new("/")).display().to_string();
        let mut all = vec![
            ("tool", format!("{} {}", self.arguments.under, contender.program).trim().to_owned()),
            ("repo", contender.repo.clone()),
            ("home", contender.home.display().to_string()),
            ("above", above),
            ("name", self.name()),
            ("step", step.to_owned()),
            ("older", older.join(" ")),
        ];
        all.extend(places.iter().cloned());
        let mut env: Vec<(String, String)> =
            contender.tool.env.iter().map(|(name, value)| ((*name).to_owned(), fill(value, &all))).collect();
        env.push(("HOME".into(), contender.home.display().to_string()));
        measure(&fill(line, &all), &env, &self.folder)
    }
}

/// Returns a small file of the source, by its path below it.
fn small_file(source: &Path) -> Result<PathBuf, Failure> {
    let mut folders = vec![source.to_path_buf()];
    let mut best: Option<(u64, PathBuf)> = None;
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder)? {
            let path = item?.path();
            let metadata = path.symlink_metadata()?;
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() && best.as_ref().is_none_or(|best| (metadata.len(), &path) < (best.0, &best.1))
            {
                best = Some((metadata.len(), path));
            }
        }
    }
    let (_, path) = best.ok_or("the source has no file")?;
    Ok(path.strip_prefix(source)?.to_path_buf())
}
