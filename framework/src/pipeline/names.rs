//! Names: of types, as people write them; of groups and instances, as stores can keep them.

use crate::error::Error;

/// `into Quake` for the type `app::model::Quake`.
pub(super) fn into_type<T>() -> String {
    format!("into {}", short(std::any::type_name::<T>()))
}

/// A type's name without the paths: `Option<Quake>`.
fn short(name: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in name.chars() {
        match c {
            ':' => word.clear(),
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            c => {
                out.push_str(&word);
                word.clear();
                out.push(c);
            }
        }
    }
    out + &word
}

/// The longest name of a group or an instance, in bytes: broker and databases keep it whole, with
/// what is added to it for a transactional id.
const NAME_MAX: usize = 200;

/// Checks the name of a pipeline, which is also the consumer group.
pub(super) fn check_group(name: &str) -> Result<(), Error> {
    check("name", name, "visible ASCII characters", |c| c.is_ascii_graphic())
}

/// Checks the name of an instance: the broker allows the characters of topic names.
pub(super) fn check_instance(name: &str) -> Result<(), Error> {
    let allowed = "letters, digits, `.`, `_` and `-`";
    check("instance", name, allowed, |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
    })?;
    if matches!(name, "." | "..") {
        return Err(Error::configuration(
            "instance",
            format_args!("{name:?} is not allowed as a name"),
        ));
    }
    Ok(())
}

fn check(
    setting: &str,
    name: &str,
    words: &str,
    allowed: impl Fn(char) -> bool,
) -> Result<(), Error> {
    let problem = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > NAME_MAX {
        format!("{} bytes are too long: {NAME_MAX} are allowed", name.len())
    } else if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        format!("{name:?} contains {c:?}: {words} are allowed")
    } else {
        return Ok(());
    };
    Err(Error::configuration(setting, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_shown_without_their_paths() {
        let name = short(std::any::type_name::<Option<Vec<(String, [u8; 4])>>>());
        assert_eq!(name, "Option<Vec<(String, [u8; 4])>>");
    }

    #[test]
    fn a_group_name_that_no_store_can_keep_is_refused_with_the_reason() {
        let long = "x".repeat(201);
        for (name, reason) in [
            ("", "it is empty"),
            (long.as_str(), "201 bytes are too long"),
            ("two words", "contains ' '"),
            ("zero\0", "contains '\\0'"),
            ("größe", "contains 'ö'"),
        ] {
            let error = check_group(name).expect_err(reason);
            assert!(error.is_configuration());
            assert!(error.to_string().contains(reason), "{error}");
        }
        check_group("orders:eu/v2").expect("visible ASCII is allowed");
        check_group(&"x".repeat(200)).expect("200 bytes are allowed");
    }

    #[test]
    fn an_instance_name_has_the_characters_the_broker_allows() {
        check_instance("pod-7.eu_west").expect("allowed");
        for name in ["", "a/b", "..", "a b"] {
            assert!(check_instance(name).is_err(), "{name:?}");
        }
    }
}
