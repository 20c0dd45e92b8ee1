// SPDX-License-Identifier: Apache-2.0
// blockdev-create, blockdev-add and blockdev-del: files and images that later commands name.
#include "control/qmp/block_commands.h"
#include "storage/qcow2/create.h"

namespace vireo::control::qmp {
namespace {

using storage::DiskGraph;

// "file": a node that was added before, or {driver: file, filename: ...}.
Outcome<std::string> take_file(DiskGraph& graph, Arguments& arguments, const char* name) {
  auto value = arguments.take(name);
  if (!value) return refuse(std::string("Parameter '") + name + "' is missing");
  if (value->is_string()) {
    DiskGraph::Node* node = graph.node(value->get<std::string>());
    if (!node || node->image) return refuse("Cannot find device='" + value->get<std::string>() + "' nor node-name='" + value->get<std::string>() + "'");
    return node->path;
  }
  if (!value->is_object()) return refuse(std::string("Invalid parameter type for '") + name + "', expected: object");
  Arguments inner(*value);
  QMP_TRY(inner.word("driver", {"file", "host_device"}, nullptr));
  const std::string path = QMP_TRY(inner.text("filename"));
  QMP_TRY(inner.maybe_text("node-name"));
  QMP_TRY(inner.maybe_text("aio"));
  QMP_TRY(inner.maybe_text("discard"));
  QMP_TRY(inner.maybe_object("cache"));
  QMP_TRY(inner.flag("auto-read-only", false));
  QMP_TRY(inner.flag("read-only", false));
  QMP_TRY(inner.end());
  return path;
}

Answer add(DiskGraph& graph, Arguments& arguments) {
  std::lock_guard lock(graph.mutex());
  DiskGraph::Node node;
  node.driver = QMP_TRY(arguments.text("driver"));
  node.name = QMP_TRY(arguments.text("node-name"));
  if (node.driver == "file" || node.driver == "host_device") {
    node.path = QMP_TRY(arguments.text("filename"));
    QMP_TRY(arguments.maybe_text("aio"));
    QMP_TRY(arguments.maybe_text("discard"));
    QMP_TRY(arguments.maybe_object("cache"));
    QMP_TRY(arguments.flag("auto-read-only", false));
    QMP_TRY(arguments.flag("read-only", false));
    QMP_TRY(arguments.end());
    QMP_DO(storage::open_file({.path = node.path, .read_only = true, .lock = false}));
    QMP_DO(graph.add_node(std::move(node)));
    return Json::object();
  }
  if (node.driver != "qcow2" && node.driver != "raw") return refuse("Parameter 'driver' does not accept value '" + node.driver + "'");
  node.path = QMP_TRY(take_file(graph, arguments, "file"));
  storage::OpenOptions options;
  options.format = node.driver;
  options.read_only = QMP_TRY(arguments.flag("read-only", false));
  const std::string discard = QMP_TRY(arguments.word("discard", {"ignore", "unmap"}, "ignore"));
  options.discard = discard == "unmap";
  if (auto cache = QMP_TRY(arguments.maybe_object("cache"))) {
    Arguments inner(*cache);
    options.direct = QMP_TRY(inner.flag("direct", false));
    options.no_flush = QMP_TRY(inner.flag("no-flush", false));
    QMP_TRY(inner.end());
  }
  // null: what the header names is not opened; that is for images that become overlays.
  if (auto backing = arguments.take("backing")) {
    if (!backing->is_null()) return refuse("Parameter 'backing' can only be null here");
    options.backing = false;
  }
  QMP_TRY(arguments.end());
  node.image = QMP_TAKE(storage::open_image(node.path, std::move(options)));
  QMP_DO(graph.add_node(std::move(node)));
  return Json::object();
}

class CreateJob final : public storage::Job {
 public:
  CreateJob(Config config, std::function<Result<>()> work) : Job(std::move(config), "create"), work_(std::move(work)) { set_length(1); }

 private:
  Result<> run() override {
    TRY_VOID(work_());
    set_progress(1, 1);
    return {};
  }
  std::function<Result<>()> work_;
};

Answer create(DiskGraph& graph, Arguments& arguments, storage::JobListener& listener) {
  std::lock_guard lock(graph.mutex());
  storage::Job::Config config{.id = QMP_TRY(arguments.text("job-id")), .auto_dismiss = false};
  QMP_DO(graph.jobs().check_new(config.id));
  auto object = QMP_TRY(arguments.maybe_object("options"));
  QMP_TRY(arguments.end());
  if (!object) return refuse("Parameter 'options' is missing");
  Arguments options(*object);
  const std::string driver = QMP_TRY(options.word("driver", {"file", "qcow2"}, nullptr));
  std::function<Result<>()> work;
  if (driver == "file") {
    const std::string path = QMP_TRY(options.text("filename"));
    const uint64_t size = QMP_TRY(options.size_or("size", 0));
    QMP_TRY(options.word("preallocation", {"off"}, "off"));
    QMP_TRY(options.end());
    work = [path, size] { return storage::create_file(path, size); };
  } else {
    const std::string path = QMP_TRY(take_file(graph, options, "file"));
    storage::qcow2::CreateConfig wish{.size = QMP_TRY(options.size_or("size", 0))};
    wish.cluster_size = QMP_TRY(options.size_or("cluster-size", 65536));
    wish.backing_file = QMP_TRY(options.maybe_text("backing-file")).value_or("");
    wish.backing_format = QMP_TRY(options.maybe_text("backing-fmt")).value_or("");
    const std::string version = QMP_TRY(options.word("version", {"v2", "v3"}, "v3"));
    wish.version = version == "v2" ? 2 : 3;
    wish.extended_l2 = QMP_TRY(options.flag("extended-l2", false));
    wish.lazy_refcounts = QMP_TRY(options.flag("lazy-refcounts", false));
    wish.refcount_bits = static_cast<unsigned>(std::min<uint64_t>(QMP_TRY(options.size_or("refcount-bits", 16)), 1024));
    QMP_TRY(options.end());
    QMP_DO(storage::qcow2::validate(wish));
    auto shared = std::make_shared<storage::qcow2::CreateConfig>(std::move(wish));
    work = [path, shared]() -> Result<> {
      auto file = TRY(storage::open_file({.path = path}));
      TRY_VOID(storage::qcow2::create(*file, *shared));
      return file->flush();
    };
  }
  auto job = std::make_unique<CreateJob>(config, std::move(work));
  storage::Job* started = job.get();
  graph.jobs().add(std::move(job));
  started->start(listener);
  return Json::object();
}

}  // namespace

void add_node_commands(Server& server, DiskGraph& graph, storage::JobListener& listener) {
  server.add("blockdev-add", [&graph](Arguments& arguments) { return add(graph, arguments); });
  server.add("blockdev-del", [&graph](Arguments& arguments) -> Answer {
    const std::string name = QMP_TRY(arguments.text("node-name"));
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    QMP_DO(graph.remove_node(name));
    return Json::object();
  });
  server.add("blockdev-create", [&graph, &listener](Arguments& arguments) { return create(graph, arguments, listener); });
}

}  // namespace vireo::control::qmp
