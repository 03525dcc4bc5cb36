//! Over a real directory: what others do in it shows up, what we do is in it.

use std::path::PathBuf;

use larder_common::ClusterId;
use larder_ufs::OpenOptions;

use super::{super::Ledger, *};

#[derive(Debug)]
pub(super) struct Directory(pub(super) PathBuf);

impl Opener for Directory {
    fn open(&self, _mount: &MountRow) -> Boxed<'static, Result<Arc<dyn UnderStore>>> {
        let uri = self.0.display().to_string();
        Box::pin(async move { larder_ufs::open(&uri, OpenOptions::new(ClusterId([3; 16]))).await })
    }
}

#[tokio::test]
async fn direct_changes_of_a_real_directory_show_up_and_ours_are_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let namespace = Namespace::new(row());
    let opener = Arc::new(Directory(directory.path().to_owned()));
    let settings = Settings { timeout: Duration::from_secs(5), ..settings() };
    let under = UnderStores::new(Arc::clone(&namespace) as _, opener, SystemClock::shared(), settings);
    under.start();
    under.mounts().get(MountId::ROOT).unwrap().until_working(soon()).await.unwrap();
    std::fs::write(directory.path().join("before"), "x").unwrap();
    let needs = || crate::state::NeedsLoad { directory: FileId::ROOT, mount: MountId::ROOT, path: rel(""), name: None };
    under.load(needs(), soon()).await.unwrap();
    assert!(namespace.has("before"));
    std::fs::write(directory.path().join("direct"), "one").unwrap();
    eventually("the file is seen", || namespace.at("direct").is_some_and(|k| k.fingerprint.unwrap().size == 3)).await;
    std::fs::remove_file(directory.path().join("direct")).unwrap();
    eventually("it is gone", || !namespace.has("direct")).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    namespace.told();
    for operation in [
        publish("own", Source::Empty, Expected::Absent, Foreign::Refuse),
        rename("own", "moved", Expected::Any, Expected::Absent),
    ] {
        let action = action(operation);
        let intent = namespace.open(&action);
        let result = under.act(intent, action, soon()).await.unwrap();
        assert!(matches!(result, UnderResult::Done(_)), "{result:?}");
        namespace.conclude(intent, &result).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(namespace.told(), Vec::<String>::new(), "our own changes are no news");
    assert!(directory.path().join("moved").is_file() && namespace.has("moved"));
    under.stop();
}
