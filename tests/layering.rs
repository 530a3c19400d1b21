//! The house stands: modules import downwards only, and files, threads, unsafe code and printing stay where they belong.
//!
//! The scanner reads the sources as text, without comments, strings and test modules. It does not understand Rust; it
//! is meant to catch the slip of a tired person, not an opponent.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The floors from the ground up. A module may import from lower floors only.
const FLOORS: [&[&str]; 6] = [
    &["axes", "config", "error", "machine", "memory", "progress"],
    &["kernel", "plan", "read", "store"],
    &["cache", "pipeline"],
    &["simulate", "steps"],
    &["export", "session"],
    &["cli", "web"],
];

/// Modules of the ground know each other; on every other floor they do not.
const GROUND: usize = 0;
const ROOF: usize = FLOORS.len() - 1;

/// Names that live at the crate's root although a module defines them.
const AT_THE_ROOT: [(&str, &str); 3] = [("Error", "error"), ("Result", "error"), ("with_sample_type", "axes")];

const MAY_BE_UNSAFE: [&str; 4] = ["store/mmap.rs", "export/chunk_write.rs", "memory/allocator.rs", "memory/bytes.rs"];
const MAY_TOUCH_FILES: [&str; 4] = ["read", "store", "cache", "export"];
/// Reads what the kernel says about memory under `/proc` and `/sys`: no file of a user.
const READS_PROC: &str = "memory.rs";

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The source without comments, and with strings and characters emptied.
fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut code, mut i) = (String::new(), 0);
    while i < chars.len() {
        let raw = (1..9).find(|&n| at(i + n) != '#').filter(|&n| at(i) == 'r' && at(i + n) == '"');
        let in_a_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_') && at(i - 1) != 'b';
        if at(i) == '/' && at(i + 1) == '/' {
            i += chars[i..].iter().take_while(|c| **c != '\n').count();
        } else if at(i) == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if let Some(quote) = raw.filter(|_| !in_a_word) {
            i += quote + 1;
            while i < chars.len() && !(at(i) == '"' && (1..quote).all(|n| at(i + n) == '#')) {
                i += 1;
            }
            i += quote;
        } else if at(i) == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character; everything else that begins like this is a lifetime.
            i += 3;
            while at(i - 1) != '\'' && i < chars.len() {
                i += 1;
            }
        } else {
            code.push(at(i));
            i += 1;
        }
    }
    code
}

/// The code without the items marked `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some((before, marked)) = rest.split_once("#[cfg(test)]") {
        kept.push_str(before);
        let mut depth = 0;
        let end = marked.char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0 && matches!(c, '}' | ';')
        });
        rest = end.map_or("", |(at, _)| &marked[at + 1..]);
    }
    kept + rest
}

/// Positions at which `word` stands on its own.
fn words<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !code[..at].chars().next_back().is_some_and(part) && !code[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// The first names behind every `crate::`, groups in braces included.
fn imports(code: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut found = Vec::new();
    for at in words(code, "crate") {
        let Some(path) = code[at + "crate".len()..].trim_start().strip_prefix("::") else { continue };
        let Some(group) = path.strip_prefix('{') else {
            found.push(name(path));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (i, c) in group.char_indices() {
            if start && depth == 0 && !c.is_whitespace() && c != '}' {
                found.push(name(&group[i..]));
                start = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => start = true,
                _ => {}
            }
        }
    }
    found
}

/// What a file of `src/` does that it must not do. `file` is its path below `src/`, with slashes.
fn violations(file: &str, source: &str) -> Vec<String> {
    let code = without_tests(&code_of(source));
    let module = file.split('/').next().unwrap_or(file).trim_end_matches(".rs");
    // The crate's own root may name everything and contains no logic; `main` is part of the roof.
    let floor = match module {
        "lib" => return Vec::new(),
        "main" => Some(ROOF),
        _ => floor_of(module),
    };
    let Some(floor) = floor else { return vec![format!("`{module}` stands on no floor of the house")] };
    let mut found = Vec::new();
    for import in imports(&code) {
        let import = AT_THE_ROOT.iter().find(|(name, _)| *name == import).map_or(&*import, |(_, module)| module);
        let allowed = match floor_of(import) {
            _ if import == module => true,
            Some(from) => from < floor || (floor == GROUND && from == GROUND) || (module == "main" && from == ROOF),
            None => false,
        };
        if !allowed {
            found.push(format!("`{module}` imports `{import}`"));
        }
    }
    let depth = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    if code.contains(&"super::".repeat(depth)) {
        found.push("goes up to the crate's root by `super`: write `crate::` instead".to_owned());
    }
    if !MAY_BE_UNSAFE.contains(&file) && words(&code, "unsafe").next().is_some() {
        found.push("unsafe code".to_owned());
    }
    // Asking how many cores there are and waiting a moment start nothing.
    let threads = words(&code, "thread").filter(|at| {
        let after = &code[at + "thread".len()..];
        after.starts_with("::") && !["::available_parallelism", "::sleep"].iter().any(|name| after.starts_with(name))
    });
    if module != "pipeline" && threads.chain(words(&code, "ThreadPoolBuilder")).next().is_some() {
        found.push("starts threads".to_owned());
    }
    let touches = ["fs", "File", "OpenOptions"].into_iter().any(|word| {
        words(&code, word).any(|at| code[at + word.len()..].starts_with("::") || code[..at].ends_with("std::"))
    });
    if touches && !MAY_TOUCH_FILES.contains(&module) && file != READS_PROC {
        found.push("touches files".to_owned());
    }
    let prints = ["println", "print", "eprintln", "eprint", "dbg"];
    let prints = prints.into_iter().any(|word| words(&code, word).any(|at| code[at + word.len()..].starts_with('!')));
    if floor != ROOF && prints {
        found.push("prints".to_owned());
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_module_stays_on_its_floor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "only {} sources under {}", files.len(), root.display());
    let mut report = String::new();
    for path in files {
        let file = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
        for violation in violations(&file, &std::fs::read_to_string(&path).expect("source")) {
            let _ = writeln!(report, "src/{file}: {violation}");
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn planted_violations_are_found() {
    for (file, source, expected) in [
        ("kernel/a.rs", "use crate::read::open;", "`kernel` imports `read`"),
        ("read/mod.rs", "fn f() { crate::session::timestamp(); }", "`read` imports `session`"),
        ("steps/a.rs", "use crate::{axes::Image, simulate::{X, Y}};", "`steps` imports `simulate`"),
        ("session/mod.rs", "use crate::export::write_all;", "`session` imports `export`"),
        ("axes.rs", "use crate::kernel::real::Real;", "`axes` imports `kernel`"),
        ("plan/mod.rs", "use crate::NotAModule;", "`plan` imports `NotAModule`"),
        ("attic/mod.rs", "", "`attic` stands on no floor of the house"),
        ("read/mib.rs", "use super::super::store::Group;", "goes up to the crate's root by `super`"),
        ("kernel/a.rs", "fn f() { unsafe { g() } }", "unsafe code"),
        ("steps/a.rs", "fn f() { std::thread::spawn(g); }", "starts threads"),
        ("simulate.rs", "rayon::ThreadPoolBuilder::new()", "starts threads"),
        ("steps/a.rs", "std::fs::metadata(path)", "touches files"),
        ("session/a.rs", "use std::fs;", "touches files"),
        ("session/a.rs", "File::open(path)", "touches files"),
        ("store/a.rs", "fn f() { println!(\"x\"); }", "prints"),
        ("kernel/a.rs", "#[cfg(test)]\nmod tests { fn g() { } }\nuse crate::cache::Step;", "`kernel` imports `cache`"),
        ("kernel/a.rs", "const C: char = '\\''; use crate::plan::Plan;", "`kernel` imports `plan`"),
        ("kernel/a.rs", "const S: &str = r#\"\"\"#; use crate::plan::Plan;", "`kernel` imports `plan`"),
    ] {
        let found = violations(file, source);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{file}: {source}\n{found:?}");
    }
}

#[test]
fn what_only_looks_like_a_violation_is_left_alone() {
    for (file, source) in [
        ("kernel/a.rs", "// use crate::session::Session;\n/* unsafe */ const S: &str = \"std::fs println!(\";"),
        ("kernel/a.rs", "#[cfg(test)]\nmod tests {\n use crate::session::Session;\n fn f() { if a { } }\n}"),
        ("read/mib/header.rs", "use super::super::file::DataFile;"),
        ("session/mod.rs", "let n = std::thread::available_parallelism(); let f = DataFile::new(); let fs = 1;"),
        ("steps/a.rs", "use crate::{Error, Result};\ncrate::with_sample_type!(d, S => {});\nfn f<'a>(x: &'a str) {}"),
        ("main.rs", "fn main() { std::process::exit(stemstream::cli::run()) }"),
        ("memory.rs", "std::fs::read_to_string(path)"),
        ("store/mmap.rs", "unsafe { map() }"),
    ] {
        assert_eq!(violations(file, source), Vec::<String>::new(), "{file}: {source}");
    }
}
