//! Which transactions get a trace that their clients did not ask for.

use anyhow::{Context as _, bail, ensure};
use atoll_telemetry::Rates;

/// Of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`, and of `ATOLL_TRACES_CROSSING`. Without them, none:
/// a trace for each transaction would cost more than the transaction.
pub(super) fn rates(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Rates> {
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    let share = |name: &str, usual: f64| -> anyhow::Result<f64> {
        let Some(text) = get(name) else { return Ok(usual) };
        let share = text.parse().with_context(|| format!("{name} is {text}; use 0 to 1"))?;
        ensure!((0.0..=1.0).contains(&share), "{name} is {text}; use 0 to 1");
        Ok(share)
    };
    let all = match get("OTEL_TRACES_SAMPLER").as_deref() {
        None | Some("parentbased_always_off") => 0.0,
        Some("parentbased_always_on") => 1.0,
        Some("parentbased_traceidratio") => share("OTEL_TRACES_SAMPLER_ARG", 1.0)?,
        Some(other) => bail!(
            "OTEL_TRACES_SAMPLER is {other}; use parentbased_always_off, parentbased_always_on or \
             parentbased_traceidratio"
        ),
    };
    Ok(Rates { all, crossing: share("ATOLL_TRACES_CROSSING", 0.0)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> anyhow::Result<Rates> {
        rates(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn shares_are_those_of_the_variables() {
        let (sampler, arg) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
        assert_eq!(of(&[]).expect("it is good"), Rates::default());
        let ratio = [(sampler, "parentbased_traceidratio"), (arg, "0.01")];
        assert_eq!(of(&ratio).expect("it is good").all, 0.01);
        let crossing = [("ATOLL_TRACES_CROSSING", "1")];
        assert_eq!(of(&crossing).expect("it is good"), Rates { all: 0.0, crossing: 1.0 });
        assert!(of(&[(sampler, "jaeger_remote")]).is_err());
        assert!(of(&[(sampler, "parentbased_traceidratio"), (arg, "2")]).is_err());
    }
}
