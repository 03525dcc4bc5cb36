//! Tests of reading settings from all sources together.

use std::{collections::BTreeMap, ffi::OsString};

use given::{environment, files, load, load_with, refused};
use proptest::prelude::*;

use super::*;
use crate::{ByteSize, TierSpec};

/// What the tests share.
mod given {
    use super::*;

    pub(super) fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    pub(super) fn files(pairs: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
        pairs.iter().map(|(path, text)| (path.into(), (*text).to_owned())).collect()
    }

    pub(super) fn load_with(variables: &[(&str, &str)], kept: &[(&str, &str)]) -> Result<(Settings, Vec<String>)> {
        let files = files(kept);
        let (settings, warnings) = Settings::load(&Sources::new(environment(variables), &files))?;
        Ok((settings, warnings.into_iter().map(|warning| warning.0).collect()))
    }

    pub(super) fn load(variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        load_with(variables, &[]).unwrap()
    }

    pub(super) fn refused(variables: &[(&str, &str)]) -> String {
        let error = load_with(variables, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        error.to_string()
    }
}

fn tier(text: &str) -> TierSpec {
    text.parse().unwrap()
}

fn host(settings: &Settings) -> Option<&str> {
    settings.master.hostname.as_ref().map(Host::as_str)
}

#[test]
fn nothing_given_is_the_defaults() {
    let (settings, warnings) = load(&[]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(settings.master, MasterSettings::default());
    assert_eq!(settings.worker, WorkerSettings::default());
    assert_eq!(settings.master_address().to_string(), "localhost:19998");
    assert_eq!(settings.worker.tiers, [tier("MEM:/dev/shm")]);
    assert_eq!(settings.master.session_lease, Duration::from_secs(10));
    assert_eq!(settings.worker.small_file_size, ByteSize::mib(4));
    assert_eq!(settings.worker.watermark_low.fraction(), 0.9);
    assert!(settings.shown().iter().all(|shown| shown.origin == Origin::Default));
}

#[test]
fn the_commands_of_the_guide_are_understood() {
    let (settings, warnings) = load(&[
        ("ALLUXIO_MASTER_HOSTNAME", "54.1.2.3"),
        ("ALLUXIO_RAM_FOLDER", "/opt/ramdisk"),
        ("ALLUXIO_WORKER_MEMORY_SIZE", "1GB"),
        ("ALLUXIO_UNDERFS_ADDRESS", "/underStorage"),
        ("ALLUXIO_WORKER_DATA_SERVER_DOMAIN_SOCKET_ADDRESS", "/opt/domain/d"),
        ("ALLUXIO_WORKER_DATA_SERVER_DOMAIN_SOCKET_AS_UUID", "true"),
        ("ALLUXIO_USER_HOSTNAME", "dummy"),
        ("ALLUXIO_UID", "1000"),
        ("ALLUXIO_GID", "1001"),
        ("MOUNT_POINT", "/mnt/here"),
        ("PATH", "/bin"),
    ]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(host(&settings), Some("54.1.2.3"));
    assert_eq!(settings.worker.tiers, [tier("MEM:/opt/ramdisk:1GB")]);
    assert_eq!(settings.master.mount_root.as_deref(), Some("/underStorage"));
    assert_eq!(settings.worker.socket_address, Some("/opt/domain/d".into()));
    assert!(settings.worker.socket_as_uuid);
    assert_eq!(settings.client.hostname.as_ref().unwrap().as_str(), "dummy");
    assert_eq!((settings.log.uid, settings.log.gid), (Some(1000), Some(1001)));
    assert_eq!(settings.fuse.mount_point, Some("/mnt/here".into()));
}

#[test]
fn the_same_works_with_our_prefix() {
    let (settings, warnings) = load(&[
        ("LARDER_RAM_FOLDER", "/opt/ramdisk"),
        ("LARDER_WORKER_MEMORY_SIZE", "50%"),
        ("LARDER_UNDERFS_ADDRESS", "/under"),
        ("LARDER_MOUNT_POINT", "/mnt/here"),
        ("LARDER_UID", "7"),
        ("LARDER_LOG", "debug"),
        ("LARDER_LOG_FORMAT", "json"),
        ("LARDER_TARBALL", "anything"),
    ]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(settings.worker.tiers, [tier("MEM:/opt/ramdisk:50%")]);
    assert_eq!(settings.log.filter.as_ref().map(LogFilter::as_str), Some("debug"));
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.log.uid, Some(7));
}

/// All subsets of the six sources: the first in the order holds, and the others are named in one line.
#[test]
fn sources_are_asked_in_order() {
    const NAMES: [&str; 6] = ["flag", "larder", "java", "alluxio", "toml", "site"];
    for chosen in 1u32..64 {
        let has = |at: usize| chosen & (1 << at) != 0;
        let variables = [
            ("LARDER_MASTER_HOSTNAME", "larder"),
            ("ALLUXIO_JAVA_OPTS", "-Dalluxio.master.hostname=java"),
            ("ALLUXIO_MASTER_HOSTNAME", "alluxio"),
        ];
        let variables: Vec<_> = variables.iter().enumerate().filter(|(at, _)| has(at + 1)).map(|(_, v)| *v).collect();
        let kept = [
            ("/etc/larder/larder.toml", "master.hostname = 'toml'"),
            ("/etc/alluxio/alluxio-site.properties", "alluxio.master.hostname=site"),
        ];
        let kept: Vec<_> = kept.iter().enumerate().filter(|(at, _)| has(at + 4)).map(|(_, v)| *v).collect();
        let files = files(&kept);
        let mut sources = Sources::new(environment(&variables), &files);
        if has(0) {
            sources = sources.flag("--master", "master.hostname", "flag");
        }
        let (settings, warnings) = Settings::load(&sources).unwrap();
        let given: Vec<_> = (0..6).filter(|at| has(*at)).map(|at| NAMES[at]).collect();
        assert_eq!(host(&settings), Some(given[0]), "{given:?}");
        assert_eq!(warnings.len(), usize::from(given.len() > 1), "{given:?}: {warnings:?}");
        for name in given.iter().filter(|_| given.len() > 1) {
            assert!(warnings[0].0.contains(name), "{name}: {}", warnings[0]);
        }
    }
}

#[test]
fn sources_that_agree_are_not_worth_a_word() {
    let (_, warnings) = load(&[("LARDER_MASTER_HOSTNAME", "a"), ("ALLUXIO_MASTER_HOSTNAME", " a ")]);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_file_can_hold_any_value() {
    let kept = [("/run/secrets/token", "hunter2\n"), ("/run/port", "1234\n")];
    let variables =
        [("LARDER_SECURITY_TOKEN_FILE", "/run/secrets/token"), ("ALLUXIO_MASTER_RPC_PORT_FILE", "/run/port")];
    let (settings, warnings) = load_with(&variables, &kept).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(settings.security.token.as_ref().unwrap().expose(), "hunter2");
    assert_eq!(settings.master.rpc_port, 1234);
    let all = format!("{settings:?} {:?}", settings.shown());
    assert!(!all.contains("hunter2"), "{all}");
    let shown = settings.shown().into_iter().find(|shown| shown.name == "security.token").unwrap();
    assert_eq!(shown.value, "***");
    assert_eq!(shown.origin.to_string(), "LARDER_SECURITY_TOKEN_FILE (/run/secrets/token)");
    let error = refused(&[("LARDER_SECURITY_TOKEN_FILE", "/missing")]);
    assert!(error.contains("/missing") && error.contains("LARDER_SECURITY_TOKEN_FILE"), "{error}");
}

#[test]
fn options_for_java_are_read() {
    let options = "-Xmx4g -XX:+UseG1GC -Dalluxio.master.hostname=a -Dalluxio.user.file.writetype.default=MUST_CACHE \
                   -Daws.accessKeyId=AKIA -Dalluxio.no.such.key=1 -Dfile.encoding=UTF-8 -Dalluxio.master.hostname=b";
    let (settings, warnings) =
        load(&[("ALLUXIO_JAVA_OPTS", options), ("ALLUXIO_WORKER_JAVA_OPTS", "-Dalluxio.worker.web.port=1")]);
    assert_eq!(host(&settings), Some("b"), "the later one holds, as in Java");
    assert_eq!(settings.client.write_type, crate::WriteType::MustCache);
    assert_eq!(settings.credentials["aws"]["accesskeyid"].expose(), "AKIA");
    assert_eq!(settings.worker.web_port, 1);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("-Xmx4g -XX:+UseG1GC -Dfile.encoding"), "{warnings:?}");
    assert!(warnings[1].contains("-Dalluxio.no.such.key"), "{warnings:?}");
}

#[test]
fn options_for_another_role_are_left_alone() {
    let files = files(&[]);
    let variables = environment(&[("ALLUXIO_MASTER_JAVA_OPTS", "-Dalluxio.master.hostname=m")]);
    let load = |role| Settings::load(&Sources::new(variables.clone(), &files).role(role)).unwrap().0;
    assert_eq!(host(&load(Role::Worker)), None);
    assert_eq!(host(&load(Role::Master)), Some("m"));
    assert_eq!(host(&load(Role::Local)), Some("m"));
}

#[test]
fn bare_numbers_are_milliseconds_in_alluxio_s_words_only() {
    let (settings, _) = load(&[("ALLUXIO_MASTER_WORKER_TIMEOUT_MS", "45000")]);
    assert_eq!(settings.master.worker_timeout, Duration::from_secs(45));
    let error = refused(&[("LARDER_MASTER_WORKER_TIMEOUT", "45000")]);
    assert!(
        error.contains("LARDER_MASTER_WORKER_TIMEOUT") && error.contains("45000") && error.contains("30s"),
        "{error}"
    );
}

#[test]
fn a_site_file_is_read() {
    let site = "alluxio.master.hostname=m\nalluxio.worker.memory.size=2GB\n\
                alluxio.worker.tieredstore.levels=2\n\
                alluxio.worker.tieredstore.level0.dirs.quota=${alluxio.worker.memory.size}\n\
                alluxio.worker.tieredstore.level1.dirs.path=/ssd1,/ssd2\n\
                alluxio.worker.tieredstore.level1.dirs.quota=10GB\n\
                alluxio.worker.evictor.class=alluxio.worker.block.evictor.LRFUEvictor\n\
                alluxio.zookeeper.enabled=false\naws.secretKey=shh\n";
    let (settings, warnings) = load_with(&[], &[("/opt/alluxio/conf/alluxio-site.properties", site)]).unwrap();
    assert_eq!(
        warnings,
        ["/opt/alluxio/conf/alluxio-site.properties: Larder has no use for alluxio.zookeeper.enabled"]
    );
    assert_eq!(settings.worker.tiers, [tier("MEM:/dev/shm:2GB"), tier("SSD:/ssd1:10GB"), tier("SSD:/ssd2:10GB")]);
    assert_eq!(settings.worker.eviction_policy.as_str(), "LRFU");
    assert_eq!(settings.credentials["aws"]["secretkey"].expose(), "shh");
}

#[test]
fn a_toml_file_is_read() {
    let text = "[master]\nhostname = 'm'\nrpc.port = 1\n[worker]\ntiers = ['MEM:/m:1GB', 'SSD:/s:2GB']\nhugepages = 'never'\n\
                [user]\nshort.circuit.enabled = false\n[credential.prod]\naccess_key_id = 'a'\nsecret_file = '/s'\n";
    let kept = [("/c.toml", text), ("/s", "x\n"), ("/etc/larder/larder.toml", "not read")];
    let (settings, warnings) = load_with(&[("LARDER_CONFIG", "/c.toml")], &kept).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(settings.master_address().to_string(), "m:1");
    assert_eq!(settings.worker.tiers, [tier("MEM:/m:1GB"), tier("SSD:/s:2GB")]);
    assert_eq!(settings.worker.hugepages, HugePages::Never);
    assert!(!settings.client.short_circuit);
    assert_eq!(settings.credentials["prod"]["access_key_id"].expose(), "a");
    assert_eq!(settings.credentials["prod"]["secret"].expose(), "x");
}

#[test]
fn a_toml_file_that_is_wrong_is_named_with_the_fix() {
    let fails = |text: &str| {
        let error = load_with(&[("LARDER_CONFIG", "/c.toml")], &[("/c.toml", text)]).unwrap_err().to_string();
        assert!(error.contains("/c.toml"), "{error}");
        error
    };
    assert!(fails("master.hostnam = 'a'").contains("did you mean master.hostname?"));
    assert!(fails("\nmaster = [").contains("line 2"));
    assert!(fails("master.rpc.port = 'a'").contains("not a port"));
    assert!(fails("master.hostname = 1979-05-27").contains("neither a text"));
    let error = fails("[security]\ntokn = 'hunter2'");
    assert!(!error.contains("hunter2") && error.contains("security.token"), "{error}");
    let error = refused(&[("LARDER_CONFIG", "/none.toml")]);
    assert!(error.contains("/none.toml") && error.contains("LARDER_CONFIG"), "{error}");
}

#[test]
fn the_usual_files_are_looked_for_in_order() {
    let kept = [
        ("/home/u/.config/larder/larder.toml", "master.hostname = 'home'"),
        ("/etc/larder/larder.toml", "master.hostname = 'etc'"),
    ];
    let (settings, warnings) = load_with(&[("HOME", "/home/u")], &kept).unwrap();
    assert_eq!((host(&settings), warnings.len()), (Some("home"), 0));
    let (settings, _) = load_with(&[("HOME", "/home/v")], &kept).unwrap();
    assert_eq!(host(&settings), Some("etc"));
}

#[test]
fn slips_stop_with_name_value_and_the_nearest_name() {
    let error = refused(&[("LARDER_MASTER_HOSTNAM", "h7")]);
    assert!(error.contains("LARDER_MASTER_HOSTNAM=h7") && error.contains("LARDER_MASTER_HOSTNAME?"), "{error}");
    let error = refused(&[("LARDER_MASTER_RPC_PORT", "many")]);
    assert!(error.contains("LARDER_MASTER_RPC_PORT") && error.contains("many") && error.contains("65535"), "{error}");
    let error = refused(&[("ALLUXIO_WORKER_MEMORY_SIZE", "lots")]);
    assert!(error.contains("ALLUXIO_WORKER_MEMORY_SIZE") && error.contains("lots"), "{error}");
    let error = refused(&[("LARDER_SECURITY_TOKN", "hunter2")]);
    assert!(!error.contains("hunter2") && error.contains("LARDER_SECURITY_TOKEN?"), "{error}");
    let error = refused(&[("LARDER_LOCALITY_RAK", "r1")]);
    assert!(error.contains("LARDER_LOCALITY_RAK") && error.contains("node, rack"), "{error}");
    let error = refused(&[("LARDER_QQQQ", "1")]);
    assert!(error.contains("config show"), "{error}");
}

#[test]
fn a_value_that_is_overridden_is_still_read() {
    let error = refused(&[("LARDER_MASTER_RPC_PORT", "1"), ("ALLUXIO_MASTER_RPC_PORT", "x")]);
    assert!(error.contains("ALLUXIO_MASTER_RPC_PORT"), "{error}");
}

#[test]
fn a_flag_that_is_wrong_is_named() {
    let files = files(&[]);
    let error = Settings::load(&Sources::new([], &files).flag("--set", "master.hostnam", "a")).unwrap_err();
    assert!(
        error.to_string().contains("--set: master.hostnam=a is not a setting; did you mean master.hostname?"),
        "{error}"
    );
}

#[test]
fn what_alluxio_alone_has_is_named_in_one_warning() {
    let (_, warnings) = load(&[("ALLUXIO_ZOOKEEPER_ENABLED", "true"), ("ALLUXIO_MASTER_HOSTNAM", "x")]);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("ALLUXIO_ZOOKEEPER_ENABLED"), "{warnings:?}");
    assert!(warnings[0].contains("did you mean ALLUXIO_MASTER_HOSTNAME?"), "{warnings:?}");
}

#[test]
fn empty_values_count_as_not_set() {
    let (settings, warnings) = load(&[("LARDER_MASTER_HOSTNAME", ""), ("ALLUXIO_MASTER_HOSTNAME", "a")]);
    assert_eq!(host(&settings), Some("a"));
    assert_eq!(warnings, ["LARDER_MASTER_HOSTNAME is empty and counts as not set"]);
    let (_, warnings) = load(&[("LARDER_CONFIG", "")]);
    assert_eq!(warnings, ["LARDER_CONFIG is empty and counts as not set"]);
}

#[test]
fn what_services_inject_is_passed_over() {
    let mut variables = Vec::new();
    for service in [
        "LARDER",
        "LARDER_MASTER",
        "LARDER_WORKER",
        "LARDER_FUSE",
        "ALLUXIO",
        "ALLUXIO_MASTER",
        "ALLUXIO_WORKER",
        "ALLUXIO_FUSE",
    ] {
        for (suffix, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "19998"),
            ("SERVICE_PORT_RPC", "19998"),
            ("PORT", "tcp://10.0.0.1:19998"),
            ("PORT_19998_TCP", "tcp://10.0.0.1:19998"),
            ("PORT_19998_TCP_PROTO", "tcp"),
            ("PORT_19998_TCP_PORT", "19998"),
            ("PORT_19998_TCP_ADDR", "10.0.0.1"),
            ("PORT_5_UDP", "udp://10.0.0.1:5"),
        ] {
            variables.push((format!("{service}_{suffix}"), value));
        }
    }
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let (settings, warnings) = load(&variables);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(settings.shown().iter().all(|shown| shown.origin == Origin::Default));
}

#[test]
fn parts_of_the_memory_tier_change_a_list_that_is_asked_later() {
    let kept = [("/etc/larder/larder.toml", "worker.tiers = 'MEM:/m:8GB,SSD:/s:9GB'")];
    let (settings, warnings) = load_with(&[("ALLUXIO_WORKER_MEMORY_SIZE", "1GB")], &kept).unwrap();
    assert_eq!(settings.worker.tiers, [tier("MEM:/m:1GB"), tier("SSD:/s:9GB")]);
    assert!(warnings.is_empty(), "{warnings:?}");
    let shown = settings.shown().into_iter().find(|shown| shown.name == "worker.tiers").unwrap();
    assert_eq!(shown.value, "MEM:/m:1GB,SSD:/s:9GB");
    assert!(shown.origin.to_string().contains("ALLUXIO_WORKER_MEMORY_SIZE"), "{}", shown.origin);
    let variables = [("LARDER_WORKER_TIERS", "MEM:/m:8GB"), ("ALLUXIO_WORKER_MEMORY_SIZE", "1GB")];
    let (settings, warnings) = load(&variables);
    assert_eq!(settings.worker.tiers, [tier("MEM:/m:8GB")]);
    assert!(warnings.len() == 1 && warnings[0].contains("ALLUXIO_WORKER_MEMORY_SIZE says 1GB"), "{warnings:?}");
    let (settings, _) =
        load_with(&[("LARDER_RAM_FOLDER", "/r")], &[("/etc/larder/larder.toml", "worker.tiers='SSD:/s:1GB'")]).unwrap();
    assert_eq!(settings.worker.tiers, [tier("MEM:/r"), tier("SSD:/s:1GB")]);
}

#[test]
fn levels_make_a_list() {
    let variables = [
        ("ALLUXIO_WORKER_TIEREDSTORE_LEVELS", "2"),
        ("ALLUXIO_WORKER_TIEREDSTORE_LEVEL0_ALIAS", "SSD"),
        ("ALLUXIO_WORKER_TIEREDSTORE_LEVEL0_DIRS_PATH", "/a,/b"),
        ("ALLUXIO_WORKER_TIEREDSTORE_LEVEL0_DIRS_QUOTA", "1GB,2GB"),
        ("ALLUXIO_WORKER_TIEREDSTORE_LEVEL0_DIRS_MEDIUMTYPE", "MEM,SSD"),
        ("ALLUXIO_WORKER_TIEREDSTORE_LEVEL1_ALIAS", "HDD"),
        ("ALLUXIO_WORKER_TIEREDSTORE_LEVEL1_DIRS_PATH", "/c"),
    ];
    let (settings, warnings) = load(&variables);
    assert_eq!(settings.worker.tiers, [tier("MEM:/a:1GB"), tier("SSD:/b:2GB"), tier("HDD:/c")]);
    assert!(warnings.is_empty(), "{warnings:?}");
    let error = refused(&[("ALLUXIO_WORKER_TIEREDSTORE_LEVELS", "2")]);
    assert!(error.contains("level 1") && error.contains("worker.tieredstore.level1.dirs.path"), "{error}");
    let error = refused(&[("LARDER_WORKER_TIEREDSTORE_LEVELX_ALIAS", "MEM")]);
    assert!(error.contains("not the number of a level"), "{error}");
    let (settings, warnings) = load(&[("LARDER_WORKER_TIERS", "MEM:/m:1GB"), variables[2]]);
    assert_eq!(settings.worker.tiers, [tier("MEM:/m:1GB")]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let (settings, warnings) = load(&[("ALLUXIO_WORKER_TIEREDSTORE_LEVELS", "1"), variables[2], variables[6]]);
    assert_eq!(settings.worker.tiers.len(), 2, "level 1 does not count");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn an_open_server_without_a_token_is_refused() {
    let listen = |variables: &[(&str, &str)]| load(variables).0.worker_listen().map(|address| address.to_string());
    assert_eq!(listen(&[]).unwrap(), "127.0.0.1:29999");
    assert_eq!(listen(&[("LARDER_SECURITY_TOKEN", "t")]).unwrap(), "0.0.0.0:29999");
    assert_eq!(listen(&[("LARDER_SECURITY_AUTHENTICATION", "simple")]).unwrap(), "0.0.0.0:29999");
    assert_eq!(listen(&[("LARDER_WORKER_BIND_HOST", "::1")]).unwrap(), "[::1]:29999");
    let error = listen(&[("LARDER_WORKER_BIND_HOST", "0.0.0.0")]).unwrap_err().to_string();
    assert!(error.contains("worker.bind.host=0.0.0.0") && error.contains("security.token"), "{error}");
    assert!(listen(&[("LARDER_SECURITY_AUTHENTICATION", "token")]).is_err());
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    assert!(refused(&[("LARDER_WORKER_WATERMARK_LOW", "99%")]).contains("watermark"));
    assert!(refused(&[("LARDER_MASTER_SESSION_LEASE", "10ms")]).contains("session.lease"));
    assert!(refused(&[("LARDER_UFS_TIMEOUT", "0s")]).contains("ufs.timeout"));
    assert!(refused(&[("LARDER_WORKER_TIERS", ",")]).contains("worker.tiers"));
}

#[test]
fn locality_is_what_was_given_and_the_host() {
    assert_eq!(Settings::default().locality("h").to_string(), "node=h");
    let (settings, _) = load(&[
        ("ALLUXIO_LOCALITY_RACK", "r1"),
        ("LARDER_LOCALITY_ORDER", "node,rack,zone"),
        ("LARDER_LOCALITY_ZONE", "z"),
    ]);
    assert_eq!(settings.locality("h").to_string(), "node=h,rack=r1,zone=z");
}

#[test]
fn folders_follow_the_user() {
    let (settings, _) = load(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1")]);
    assert_eq!(settings.journal_folder(false).unwrap(), PathBuf::from("/home/u/.local/state/larder/journal"));
    assert_eq!(settings.journal_folder(true).unwrap(), PathBuf::from("/var/lib/larder/journal"));
    assert_eq!(settings.runtime_folder(false).unwrap(), PathBuf::from("/run/user/1/larder"));
    assert!(load(&[]).0.state_folder(false).is_err());
}

#[test]
fn a_name_that_is_not_text_is_left_alone_and_a_value_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let strange = OsString::from_vec(vec![0xff]);
    let files = files(&[]);
    assert!(Settings::load(&Sources::new([(strange.clone(), "x".into())], &files)).is_ok());
    let error = Settings::load(&Sources::new([("LARDER_MASTER_HOSTNAME".into(), strange)], &files)).unwrap_err();
    assert!(error.to_string().contains("LARDER_MASTER_HOSTNAME"), "{error}");
}

#[test]
fn a_variable_that_is_not_ours_alone_concerns_only_who_uses_it() {
    let files = files(&[]);
    let load = |role| Settings::load(&Sources::new(environment(&[("MOUNT_POINT", "not absolute")]), &files).role(role));
    assert!(load(Role::Client).unwrap().1.is_empty());
    assert!(load(Role::Fuse).unwrap_err().to_string().contains("MOUNT_POINT"));
}

#[test]
fn the_name_of_a_credential_is_the_same_in_all_sources() {
    let (settings, _) = load(&[("LARDER_CREDENTIAL_PROD_ACCESS_KEY", "a")]);
    assert_eq!(settings.credentials["prod"]["access_key"].expose(), "a");
    let kept = [("/etc/larder/larder.toml", "[credential.my_prod]\nkey = 'a'")];
    let error = load_with(&[], &kept).unwrap_err().to_string();
    assert!(error.contains("cannot have `_`"), "{error}");
    assert!(refused(&[("LARDER_CREDENTIAL_PROD", "a")]).contains("credential.NAME.KEY"));
}

fn anything_like_a_setting() -> impl Strategy<Value = (String, String)> {
    let known: Vec<String> = all().map(|setting| setting.variable().replace('*', "1")).collect();
    let name = prop_oneof![
        4 => (proptest::sample::select(known), prop_oneof![Just(""), Just("_FILE")]).prop_map(|(name, end)| name + end),
        1 => "(LARDER|ALLUXIO)_[A-Z_*]{0,12}".prop_map(|name| name),
        1 => Just("ALLUXIO_JAVA_OPTS".to_owned()),
    ];
    let value =
        prop_oneof![".{0,12}", "[0-9]{1,20}", "MEM:/[a-z,:]{0,9}:[0-9]{1,3}(GB|%)", "-D(alluxio|aws)[.a-z=,]{0,20}"];
    (name, value)
}

proptest! {
    /// Whatever is given ends in settings or in an error about settings, and secrets stay hidden.
    #[test]
    fn nothing_given_makes_it_panic(given in proptest::collection::vec(anything_like_a_setting(), 0..4), toml in ".{0,40}") {
        let files = files(&[("/etc/larder/larder.toml", &toml)]);
        let given = given.into_iter().map(|(name, value)| (name.into(), value.into()));
        let secret = [("LARDER_SECURITY_TOKEN".into(), "hunter2".into())];
        match Settings::load(&Sources::new(given.chain(secret), &files)) {
            Ok((settings, warnings)) => {
                let printed = format!("{settings:?}{warnings:?}");
                prop_assert!(!printed.contains("hunter2"));
                prop_assert!(!settings.worker.tiers.is_empty());
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Config, "{}", error),
        }
    }
}
