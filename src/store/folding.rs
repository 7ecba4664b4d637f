//! Two transformations that both backends do in Rust, so that they agree: the key of an e-mail address, and a change of
//! the profile.

use serde_json::{Map, Value};

use super::{MetadataChange, ProfileChange, User};

/// How deep metadata may nest. Records hold it inside other objects, and parsers stop at 128.
const MAX_DEPTH: usize = 64;

/// The form in which addresses are compared: every character's case folded, by way of upper case so that `ß` and `SS`,
/// or the two small sigmas, are one. The dotless `ı` stays what it is: it is not an `i`.
pub(crate) fn email_key(email: &str) -> String {
    email
        .trim()
        .chars()
        .flat_map(|c| if c == 'ı' { vec![c] } else { c.to_uppercase().flat_map(char::to_lowercase).collect() })
        .collect()
}

/// The merged metadata would be larger or deeper than allowed.
pub(super) struct TooLarge;

/// Applies `change` to `user` and says whether anything is different now.
pub(super) fn apply(user: &mut User, change: &ProfileChange, max_metadata_bytes: usize) -> Result<bool, TooLarge> {
    let before = user.clone();
    if let Some(full_name) = &change.full_name {
        user.full_name.clone_from(full_name);
    }
    if let Some(avatar_url) = &change.avatar_url {
        user.avatar_url.clone_from(avatar_url);
    }
    match &change.metadata {
        Some(MetadataChange::Replace(metadata)) => user.metadata = Value::Object(metadata.clone()),
        Some(MetadataChange::Merge(patch)) => merge(&mut user.metadata, patch, MAX_DEPTH),
        None => {}
    }
    if change.metadata.is_some() {
        // Depth first: writing it out recurses.
        if is_deeper_than(&user.metadata, MAX_DEPTH) || user.metadata.to_string().len() > max_metadata_bytes {
            return Err(TooLarge);
        }
    }
    Ok(*user != before)
}

/// JSON Merge Patch (RFC 7396). Below `depth` levels it replaces instead of merging; such a result is too deep anyway.
fn merge(target: &mut Value, patch: &Map<String, Value>, depth: usize) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(inner) if depth > 0 => {
                merge(target.entry(name.clone()).or_insert(Value::Null), inner, depth - 1);
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}

fn is_deeper_than(value: &Value, depth: usize) -> bool {
    let Some(below) = depth.checked_sub(1) else { return value.is_object() || value.is_array() };
    match value {
        Value::Object(map) => map.values().any(|inner| is_deeper_than(inner, below)),
        Value::Array(items) => items.iter().any(|inner| is_deeper_than(inner, below)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { panic!("a patch of metadata is an object") };
        merge(&mut target, patch, MAX_DEPTH);
        target
    }

    #[test]
    fn the_examples_of_rfc_7396() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merged(target, &patch), result);
        }
    }

    #[test]
    fn a_patch_as_deep_as_parsers_let_through_is_refused() {
        let mut deep = json!({});
        for _ in 0..120 {
            deep = json!({ "a": deep });
        }
        let Value::Object(patch) = deep.take() else { panic!("an object") };
        let mut user = User {
            id: crate::ids::UserId::random(),
            email: "a@example.org".into(),
            full_name: None,
            avatar_url: None,
            metadata: json!({}),
            created_at: time::OffsetDateTime::UNIX_EPOCH,
            updated_at: time::OffsetDateTime::UNIX_EPOCH,
        };
        let change = ProfileChange { metadata: Some(MetadataChange::Merge(patch)), ..ProfileChange::default() };
        assert!(apply(&mut user, &change, usize::MAX).is_err());
    }

    #[test]
    fn addresses_that_differ_in_case_alone_have_one_key() {
        for (left, right) in
            [("Ann@Example.ORG", "ann@example.org"), ("ΟΔΟΣ@x.gr", "οδος@x.gr"), ("STRASSE@x.de", "straße@x.de")]
        {
            assert_eq!(email_key(left), email_key(right));
        }
        assert_ne!(email_key("ı@x.tr"), email_key("i@x.tr"));
    }
}
