//! `docs/security.md` stays true: it has every row, and every test that it names exists.

use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../docs/security.md");

/// Requirements in the table.
const ROWS: usize = 52;

/// `suite::test` where it is named as code; the test is empty where the whole suite is meant.
fn named() -> Vec<(&'static str, &'static str)> {
    let code = DOCUMENT.split('`').skip(1).step_by(2);
    let is_name = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    code.filter_map(|code| code.split_once("::")).filter(|(suite, test)| is_name(suite) && is_name(test)).collect()
}

fn sources(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The files of a suite, or those of a module that has unit tests.
fn files_of(suite: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let of_suite = sources(&root.join("tests").join(suite));
    let single = root.join("tests").join(format!("{suite}.rs"));
    let of_module = sources(&root.join("src")).into_iter().filter(|path| {
        let parts = path.strip_prefix(root).expect("below the root").with_extension("");
        parts.components().any(|part| part.as_os_str() == suite)
    });
    of_suite.into_iter().chain(Some(single).filter(|path| path.exists())).chain(of_module).collect()
}

#[test]
fn every_named_test_exists() {
    let named = named();
    assert!(named.len() > ROWS, "{} tests are named", named.len());
    for (suite, test) in named {
        let files = files_of(suite);
        assert!(!files.is_empty(), "{suite} is no suite and no module");
        let defined = format!("fn {test}(");
        let found = test.is_empty()
            || files.iter().any(|path| std::fs::read_to_string(path).expect("a source").contains(&defined));
        assert!(found, "{suite}::{test} does not exist");
    }
}

#[test]
fn every_row_is_there_with_a_test_or_a_reason() {
    for number in 1..=ROWS {
        let start = format!("| {number} |");
        let row = DOCUMENT.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("row {number}"));
        let shown = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        assert!(shown.len() > 20, "row {number} has neither a test nor a reason: {shown:?}");
    }
}
