//! What is allowed, probably not meant, and warned of.

use super::*;

#[test]
fn a_tenant_is_never_silently_another_one() {
    for (tenant, said) in [
        ("\"acme\"", "has quotes in it"),
        ("'acme'", "has quotes in it"),
        ("acme ", "has a blank in it"),
        ("acme # production", "has a blank and the sign of a comment in it"),
        ("acme;x", "has the sign of a comment in it"),
    ] {
        let warnings = User::types("").sets("BLUEFLOOD_FORWARD_TENANT", tenant).warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings.concat().contains(said), "{tenant}: {warnings:?}");
    }
    for line in ["tenant=\"acme\"", "tenant = 'acme'", "tenant=acme # production"] {
        let text = format!("[blueflood_carbon_forwarder]\n{line}\n");
        assert_eq!(User::writes("/x.conf", &text).warnings().len(), 1, "{line}");
    }
    for tenant in ["acme", "00836986", "a-b_c:d@e", "größe"] {
        assert_eq!(User::types("-t").and_types(tenant).warnings(), [""; 0], "{tenant}");
    }
}

#[test]
fn a_value_that_stands_in_quotes_is_warned_of_and_a_secret_not_shown() {
    for key in ["USER", "KEY", "METRIC_PREFIX", "KEY_FILE", "SPOOL", "LOG_FILE"] {
        let user = User::types("").sets(&format!("BLUEFLOOD_FORWARD_{key}"), "\"s3cret\"");
        let warnings = match user.loads() {
            Ok(loaded) => loaded.warnings,
            Err(refused) => refused.warnings,
        }
        .join("\n");
        let said = format!("{} (environment BLUEFLOOD_FORWARD_{key}) stands in quotes", key.to_lowercase());
        assert!(warnings.contains(&said) && !warnings.contains("s3cret"), "{warnings}");
    }
}

#[test]
fn a_prefix_that_makes_odd_names_is_warned_of() {
    for (prefix, said) in [
        ("a b", "has a blank"),
        (" a", "has a blank"),
        ("a\t", "has a blank"),
        ("a.", "an empty part"),
        (".a", "an empty part"),
        ("a..b", "an empty part"),
    ] {
        for key in ["metric_prefix", "self_metrics"] {
            let warnings = User::types("").and_types(&format!("--{key}={prefix}")).warnings().join("\n");
            assert!(warnings.contains(said) && warnings.starts_with(key), "{prefix:?}: {warnings}");
        }
    }
    assert_eq!(User::types("-p a.b --self_metrics c.d").warnings(), [""; 0]);
}
