//! Where a setting's text comes from: file, `.env`, environment, flag, each hiding the ones before.
//!
//! Reads the two files and whatever `*_FILE` settings point to; the environment and the flags are arguments, so that
//! nothing here depends on the process it runs in. Keeps text only: [`super::values`] judges it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::ConfigError;
use super::settings::{ALL, CONFIG, Fallback, PREFIX, Setting};
use super::values::Parsed;

/// Texts by the name of an environment variable, or of a setting.
pub type Texts = BTreeMap<String, String>;

/// Which layer a text comes from, weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Built in.
    BuiltIn,
    /// The TOML file.
    File(PathBuf),
    /// The `.env` file.
    Dotenv(PathBuf),
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the default"),
            Self::File(path) | Self::Dotenv(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("the environment"),
            Self::Flag => f.write_str("the command line"),
        }
    }
}

/// The text of every setting that somebody has set.
pub struct Layers {
    texts: BTreeMap<&'static str, (Source, String)>,
    /// What the operator should hear although it does not stop the start.
    pub warnings: Vec<String>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

impl Layers {
    /// Puts the layers on each other. `flags` is keyed by [`Setting::env`]; an absent `dotenv` file is no error.
    pub fn read(flags: &Texts, environment: &Texts, dotenv: Option<&Path>) -> Result<Self, ConfigError> {
        let mut layers = Self { texts: BTreeMap::new(), warnings: Vec::new(), files: Vec::new() };
        let dotenv = match dotenv.filter(|path| path.exists()) {
            Some(path) => Some((path, read_dotenv(path)?)),
            None => None,
        };
        // The file's own name comes from the layers above it, so these are laid first and then once more.
        layers.lay_named(flags, environment, dotenv.as_ref());
        if let Some((source, path)) = layers.texts.remove(CONFIG.env) {
            let path = PathBuf::from(path);
            let texts = read_toml(&path).map_err(|reason| ConfigError::of(&CONFIG, &source, reason))?;
            layers.texts.clear();
            layers.lay(&Source::File(path.clone()), &texts);
            layers.files.push(path);
            layers.lay_named(flags, environment, dotenv.as_ref());
        }
        if let Some((path, texts)) = &dotenv {
            layers.warn_of_unknown(&Source::Dotenv(path.to_path_buf()), texts);
            layers.files.push(path.to_path_buf());
        }
        layers.warn_of_unknown(&Source::Environment, environment);
        Ok(layers)
    }

    fn lay_named(&mut self, flags: &Texts, environment: &Texts, dotenv: Option<&(&Path, Texts)>) {
        if let Some((path, texts)) = dotenv {
            self.lay(&Source::Dotenv(path.to_path_buf()), texts);
        }
        self.lay(&Source::Environment, environment);
        self.lay(&Source::Flag, flags);
    }

    fn lay(&mut self, source: &Source, texts: &Texts) {
        for setting in ALL {
            match texts.get(setting.env) {
                // Compose files and shells write `NAME=` for "not set".
                Some(text) if text.is_empty() && matches!(source, Source::Environment | Source::Dotenv(_)) => {}
                Some(text) => {
                    self.texts.insert(setting.env, (source.clone(), text.clone()));
                }
                None => {}
            }
        }
    }

    fn warn_of_unknown(&mut self, source: &Source, texts: &Texts) {
        for name in texts.keys().filter(|name| name.starts_with(PREFIX)) {
            if !ALL.iter().any(|setting| setting.env == name) {
                self.warnings.push(format!("{name} in {source} is not a setting of this version and does nothing"));
            }
        }
    }

    /// Which layer a setting comes from.
    pub fn source(&self, setting: &Setting) -> Source {
        self.texts.get(setting.env).map_or(Source::BuiltIn, |(source, _)| source.clone())
    }

    /// The value of a setting, `None` where nobody has set it and it has no default.
    pub fn optional<T>(&self, setting: &Setting, parse: impl Fn(&str) -> Parsed<T>) -> Result<Option<T>, ConfigError> {
        let text = match (self.texts.get(setting.env), setting.default) {
            (Some((_, text)), _) => text.trim(),
            (None, Fallback::Value(text)) => text,
            (None, Fallback::Unset(_)) => return Ok(None),
        };
        parse(text)
            .map(Some)
            .map_err(|reason| ConfigError::of(setting, &self.source(setting), format!("{text:?} {reason}")))
    }

    /// The value of a setting that has a default.
    pub fn value<T>(&self, setting: &Setting, parse: impl Fn(&str) -> Parsed<T>) -> Result<T, ConfigError> {
        self.optional(setting, parse)?.ok_or_else(|| ConfigError::of(setting, &Source::BuiltIn, "has no value".into()))
    }

    /// A secret: the text itself, or the content of the file that `file_setting` names. The upper layer wins; both in
    /// one layer is an error. Complaints do not repeat the value.
    pub fn secret(
        &self,
        setting: &'static Setting,
        file_setting: &'static Setting,
        check: impl Fn(&str) -> Parsed<()>,
    ) -> Result<Option<SecretString>, ConfigError> {
        let (direct, file) = (self.texts.get(setting.env), self.texts.get(file_setting.env));
        let (said_by, source, text) = match (direct, file) {
            (None, None) => return Ok(None),
            (Some((source, _)), Some((file_source, _))) if source == file_source => {
                let reason = format!("{} and {} are both set; keep one", setting.env, file_setting.env);
                return Err(ConfigError::of(setting, source, reason));
            }
            (Some((source, text)), Some((file_source, _))) if source > file_source => (setting, source, text.clone()),
            (Some((source, text)), None) => (setting, source, text.clone()),
            (_, Some((source, path))) => {
                let text = std::fs::read_to_string(path.trim()).map_err(|error| {
                    ConfigError::of(file_setting, source, format!("{path:?} cannot be read: {error}"))
                })?;
                (file_setting, source, text)
            }
        };
        let text = text.trim();
        let complain = |reason: String| ConfigError::of(said_by, source, format!("(value not shown) {reason}"));
        if text.is_empty() {
            return Err(complain("is empty".into()));
        }
        check(text).map_err(complain)?;
        Ok(Some(SecretString::from(text)))
    }
}

fn read_dotenv(path: &Path) -> Result<Texts, ConfigError> {
    let fail = |reason: String| ConfigError(format!("{}: {reason}", path.display()));
    let items = dotenvy::from_path_iter(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    let mut texts = Texts::new();
    let mut place = "the first entry".to_string();
    for item in items {
        // dotenvy's own message repeats the value, which may be a password.
        let (name, text) = item.map_err(|error| match error {
            dotenvy::Error::LineParse(..) => fail(format!("{place} cannot be read; quote its value")),
            other => fail(format!("cannot be read: {other}")),
        })?;
        place = format!("the entry after {name}");
        texts.insert(name, text);
    }
    Ok(texts)
}

/// Flattens the TOML file into texts keyed by [`Setting::env`]. Every key must be a setting.
fn read_toml(path: &Path) -> Parsed<Texts> {
    let named = |reason: String| format!("{}: {reason}", path.display());
    let content = std::fs::read_to_string(path).map_err(|error| named(format!("cannot be read: {error}")))?;
    // The parser's message shows the line, which may hold a password: only the place is told.
    let table: toml::Table = content.parse().map_err(|error: toml::de::Error| {
        let line =
            error.span().and_then(|span| content.get(..span.start)).map_or(1, |head| head.lines().count().max(1));
        named(format!("line {line} is not TOML: {}", error.message()))
    })?;
    let mut texts = Texts::new();
    for (key, value) in &table {
        let known = ALL.iter().find(|setting| setting.key() == *key && setting.env != CONFIG.env);
        let setting = known.ok_or_else(|| named(format!("{key} is not a setting{}", suggestion(key))))?;
        let text = toml_text(value).ok_or_else(|| named(format!("{key} must be a text, a number, on or off")))?;
        texts.insert(setting.env.to_string(), text);
    }
    Ok(texts)
}

fn suggestion(key: &str) -> String {
    let plain = key.to_ascii_lowercase().replace('-', "_");
    let plain = plain.strip_prefix("portcullis_").unwrap_or(&plain);
    match ALL.iter().find(|setting| setting.key() == plain && setting.env != CONFIG.env) {
        Some(setting) => format!("; its key here is {}", setting.key()),
        None => String::new(),
    }
}

fn toml_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(if *switch { "on" } else { "off" }.into()),
        toml::Value::Array(items) => {
            items.iter().map(|item| item.as_str()).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        _ => None,
    }
}
