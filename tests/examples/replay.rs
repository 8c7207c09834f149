#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]
use lakebed_testkit::chance::Chance;
static MSG: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
fn main() {
    let mut args = std::env::args().skip(1);
    let target = args.next().unwrap();
    let check: fn(&[u8]) = match target.as_str() {
        "commands" => lakebed_tests::commands::run,
        name => lakebed_testkit::fuzz::DECODERS.iter().find(|(n, _)| *n == name).unwrap().1,
    };
    let mode = args.next().unwrap();
    if mode == "random" {
        let count: u64 = args.next().unwrap().parse().unwrap();
        let seed: u64 = args.next().unwrap().parse().unwrap();
        let chance = Chance::new(seed);
        let begun = std::time::Instant::now();
        for n in 0..count {
            let length = 20 + chance.below(140);
            let bytes: Vec<u8> = (0..length).map(|_| chance.below(256) as u8).collect();
            let copy = bytes.clone();
            if std::panic::catch_unwind(move || check(&copy)).is_err() {
                let path = format!("/tmp/fail-{target}-{seed}-{n}");
                std::fs::write(&path, &bytes).unwrap();
                println!("FAILED {path}");
            }
        }
        println!("{count} in {:?}", begun.elapsed());
        return;
    }
    if mode == "min" {
        let path = args.next().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        std::panic::set_hook(Box::new(|info| *MSG.lock().unwrap() = info.to_string()));
        let fails = |b: &[u8]| {
            let copy = b.to_vec();
            let failed = std::panic::catch_unwind(move || check(&copy)).is_err();
            failed.then(|| {
                let m = MSG.lock().unwrap();
                m.chars().filter(|c| !c.is_ascii_hexdigit()).take(150).collect::<String>()
            })
        };
        let wanted = fails(&bytes).expect("it fails");
        let mut size = bytes.len() / 2;
        loop {
            let mut changed = false;
            let mut at = 0;
            while size > 0 && at + size <= bytes.len() {
                let mut shorter = bytes.clone();
                shorter.drain(at..at + size);
                if fails(&shorter).as_ref() == Some(&wanted) {
                    bytes = shorter;
                    changed = true;
                } else {
                    at += 1;
                }
            }
            if size > 1 {
                size = (size * 2 / 3).max(1);
            } else if !changed {
                break;
            }
        }
        for at in 0..bytes.len() {
            for v in [0u8, 1, 2, 4, 5] {
                let mut b = bytes.clone();
                if b[at] <= v {
                    break;
                }
                b[at] = v;
                if fails(&b).as_ref() == Some(&wanted) {
                    bytes = b;
                    break;
                }
            }
        }
        std::fs::write(format!("{path}.min"), &bytes).unwrap();
        println!("{:?}\n{:#?}\n{}", bytes, lakebed_tests::commands::read(&bytes), MSG.lock().unwrap());
        return;
    }
    for path in std::iter::once(mode).chain(args) {
        let bytes = std::fs::read(&path).unwrap();
        if target == "commands" {
            println!("{:#?}", lakebed_tests::commands::read(&bytes));
        }
        println!("{path}");
        check(&bytes);
    }
}
