//! The reference of all settings as Markdown, from their declarations. `docs/configuration.md` is this text, held by a
//! test.

use std::fmt::Write;

use super::{
    registry::GROUPS,
    setting::{Role, Setting},
};

const HEAD: &str = "\
<!-- Generated from the code by `LARDER_BLESS=1 cargo test -p larder-common reference`. Do not edit. -->

# Configuration

Every setting has one name, `master.hostname`. It is given, and looked for in this order, as

1. a flag of the command, or `--set master.hostname=HOST`;
2. an environment variable, `LARDER_MASTER_HOSTNAME`;
3. `-Dalluxio.master.hostname=HOST` in `ALLUXIO_JAVA_OPTS` or `ALLUXIO_{MASTER,WORKER,FUSE,USER}_JAVA_OPTS`, the latter for
   that role only;
4. an environment variable in Alluxio's words, `ALLUXIO_MASTER_HOSTNAME`;
5. a key of a TOML file: the one that `--config` or `LARDER_CONFIG` names, else `~/.config/larder/larder.toml`, else
   `/etc/larder/larder.toml`;
6. a key of an `alluxio-site.properties` in `$ALLUXIO_CONF_DIR`, `$ALLUXIO_HOME/conf`, `/opt/alluxio/conf`, `~/.alluxio` or
   `/etc/alluxio`;
7. its default.

`larder config show` prints each value with its source. Two sources that disagree are named in a warning. A name of
Larder's own that does not exist, or a value that cannot be read, stops the program; a name of Alluxio's that Larder has
no use for is named in a warning; an empty value counts as not set.

Any setting can be given as the path of a file whose content is the value, with `_FILE` behind the variable
(`LARDER_SECURITY_TOKEN_FILE=/run/secrets/token`) or `_file` behind the key. Sizes are written `1GB` (2^30 bytes), `64MiB`;
shares `50%`; times `500ms`, `30s`, `2h`. A bare number for a time is accepted from Alluxio's sources only, and is in
milliseconds, as there. Secrets are never printed.

What Kubernetes and Docker inject for services called `larder…` or `alluxio…` (`*_SERVICE_HOST`, `*_SERVICE_PORT*`,
`*_PORT_<n>_TCP*` and the same of UDP and SCTP, `*_PORT` with a value that begins with `tcp://` and the like, and of links
`*_NAME` with a value that begins with `/` and `*_ENV_*`) is passed over, and so is `LARDER_TARBALL`.

A name of Alluxio's in the tables stands for `alluxio.NAME` as a property and for `ALLUXIO_NAME` in the environment. `*` is
one word.
";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for (title, settings) in GROUPS {
        let _ = write!(
            page,
            "\n## {title}\n\n| name | environment | Alluxio | default | meaning |\n|---|---|---|---|---|\n"
        );
        for setting in *settings {
            let _ = writeln!(page, "{}", row(setting));
        }
    }
    page
}

fn row(setting: &Setting) -> String {
    let default = if setting.default.is_empty() { "none".to_owned() } else { code(setting.default) };
    let doc = setting.doc.trim().replace('|', "\\|");
    let others: Vec<_> =
        setting.also.iter().map(|name| code(&format!("LARDER_{}", super::setting::upper(name)))).collect();
    let bare = setting.variables.iter().map(|name| code(name));
    let variables: Vec<_> = std::iter::once(code(&setting.variable())).chain(others).chain(bare).collect();
    let alluxio: Vec<_> = setting.alluxio.iter().map(|name| code(name)).collect();
    format!(
        "| {} | {} | {} | {default} | {doc} *{}; {}; since {}* |",
        code(setting.name),
        variables.join(", "),
        alluxio.join(", "),
        setting.kind,
        roles(setting.roles),
        setting.since,
    )
}

fn roles(roles: &[Role]) -> String {
    if roles == Role::ALL {
        return "every role".into();
    }
    let names: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
    names.join(", ")
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Rewrites the page instead when `LARDER_BLESS` is set.
    #[test]
    fn the_reference_is_not_stale() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        if std::env::var_os("LARDER_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, markdown()).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == markdown(),
            "docs/configuration.md is stale: LARDER_BLESS=1 cargo test -p larder-common reference"
        );
    }
}
