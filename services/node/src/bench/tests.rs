use super::{
    figures::{FIGURES, Target},
    loads::Pace,
    measure::Measured,
    report::Spread,
    *,
};

fn names(figures: &str) -> Vec<String> {
    figures.split(',').map(str::to_owned).collect()
}

fn selected(figures: &str) -> Vec<&'static str> {
    let selected = select(&names(figures)).unwrap_or_else(|error| panic!("{error}"));
    selected.iter().map(|figure| figure.id).collect()
}

fn args() -> BenchArgs {
    BenchArgs {
        figures: vec![],
        turns: 3,
        duration: Duration::from_secs(8),
        accounts: 10,
        shards: 4,
        state_accounts: 30_000,
        json: false,
        list: false,
    }
}

#[test]
fn the_median_is_in_the_middle_and_the_spread_around_it() {
    let spread = |values: &[f64]| Spread::of(values.to_vec());
    let three = spread(&[3.0, 1.0, 2.5]).expect("three numbers");
    assert_eq!((three.median, three.lowest, three.highest), (2.5, 1.0, 3.0));
    assert_eq!(three.values, [3.0, 1.0, 2.5]);
    assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]).map(|spread| spread.median), Some(3.0));
    assert_eq!(spread(&[7.0]).map(|spread| (spread.lowest, spread.highest)), Some((7.0, 7.0)));
    assert_eq!(spread(&[]), None);
    assert_eq!(spread(&[1.0, f64::NAN]), None);
    assert_eq!(spread(&[1.0, 1.0 / 0.0]), None);
}

#[test]
fn figures_are_chosen_by_id_and_by_how_it_begins() {
    assert_eq!(select(&[]).map(|all| all.len()).ok(), Some(FIGURES.len()));
    assert_eq!(selected("e2e.cpu"), ["e2e.cpu"]);
    assert_eq!(selected("cross.tps"), ["cross.tps.erc20", "cross.tps.transfers"]);
    assert_eq!(
        selected("beacon,e2e.memory"),
        ["e2e.memory", "e2e.memory.peak", "beacon.cpu", "beacon.bytes"]
    );
    for wrong in ["e2", "e2e.", "e2e.cpu.x", "nothing", ""] {
        let error = select(&names(wrong)).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("e2e.tps")), "{wrong:?}");
    }
    let exec = select(&names("exec.erc20")).err().map(|error| error.to_string());
    assert!(exec.is_some_and(|error| error.contains("cargo bench")));
}

#[test]
fn ids_and_names_are_there_once_and_every_load_has_what_it_needs() {
    let ids: BTreeSet<_> = FIGURES.iter().map(|figure| figure.id).collect();
    assert_eq!(ids.len(), FIGURES.len());
    let all = loads_of(&FIGURES.iter().collect::<Vec<_>>());
    let names: BTreeSet<_> = all.iter().map(|load| load.plan().name).collect();
    assert_eq!(names.len(), all.len());
    for (index, load) in all.iter().enumerate() {
        if let Pace::Of(other, _) = load.plan().pace {
            assert!(all.iter().take(index).any(|before| *before == other), "{load:?}");
        }
    }
    // Each figure follows from its own loads alone.
    for figure in FIGURES {
        let loads = loads_of(&[figure]);
        let turn = Turn(loads.into_iter().map(|load| (load, Measured::default())).collect());
        assert!((figure.value)(&turn).is_some(), "{}", figure.id);
    }
}

#[test]
fn a_ratio_is_that_of_one_turn_and_is_judged_by_its_median() {
    let turn = |erc20: f64, crossing: f64| {
        let load = |cpu_us| Measured { cpu_us, tps: 12_345.0, ..Measured::default() };
        Turn([(Load::Erc20, load(erc20)), (Load::Erc20All, load(crossing))].into())
    };
    let turns = [turn(100.0, 150.0), turn(200.0, 500.0), turn(50.0, 90.0)];
    let (args, figures) = (args(), select(&names("cross.cpu")).expect("it is there"));
    let report = Report { args: &args, figures: &figures, turns: &turns };
    let table = report.markdown();
    let row = "| cross.cpu | CPU of a crossing ERC-20 transfer / of a local one | ≤ 2 | \
               1.80 (1.50–2.50) | met |";
    assert_eq!(table.lines().nth(2), Some(row), "{table}");
    assert!(table.contains("| erc20 0 % | 12,345 (12,345–12,345) | 100 (50–200) |"), "{table}");
    let columns: BTreeSet<_> =
        table.lines().skip(4).map(|line| line.matches('|').count()).collect();
    assert_eq!(columns.len(), 1, "{table}");

    let json = report.json();
    let figure = &json["figures"][0];
    assert_eq!(figure["measured"]["median"], 1.8);
    assert_eq!(figure["measured"]["values"], serde_json::json!([1.5, 2.5, 1.8]));
    assert_eq!((&figure["met"], &figure["target"]["at_most"]), (&true.into(), &2.0.into()));
    assert_eq!(json["loads"][0]["measured"]["cpu_us"]["highest"], 200.0);
    assert_eq!(json["turns"], 3);
}

#[test]
fn what_was_not_measured_is_not_judged() {
    let (args, figures) = (args(), select(&names("cross.cpu")).expect("it is there"));
    let turns = [Turn([(Load::Erc20, Measured::default())].into())];
    let report = Report { args: &args, figures: &figures, turns: &turns };
    assert!(report.markdown().contains("| ≤ 2 | – |  |"), "{}", report.markdown());
    assert!(report.json()["figures"][0]["met"].is_null());
}

#[test]
fn targets_hold_at_their_bounds() {
    assert_eq!(Target::AtMost(1.6).met(1.6), Some(true));
    assert_eq!(Target::AtMost(1.6).met(1.61), Some(false));
    assert_eq!(Target::AtLeast(0.9).met(0.9), Some(true));
    assert_eq!(Target::AtLeast(0.9).met(0.89), Some(false));
    assert_eq!(Target::None.met(1.0), None);
}

#[test]
fn memory_is_what_the_additional_accounts_take() {
    let load = |payees, resident| Measured { payees, resident, ..Measured::default() };
    let loads = [
        (Load::FewAccounts, load(10_000.0, 100e6)),
        (Load::ManyAccounts, load(1_010_000.0, 350e6)),
    ];
    let turn = Turn(loads.into());
    let figures = select(&names("e2e.memory")).expect("it is there");
    assert_eq!(figures.first().and_then(|figure| (figure.value)(&turn)), Some(250.0));
}
