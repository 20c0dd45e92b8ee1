// SPDX-License-Identifier: Apache-2.0
// Commands that come into effect at one moment, alone or together; and those that change a disk at once.
#include <bit>

#include "control/qmp/block_commands.h"
#include "control/qmp/job_options.h"

namespace vireo::control::qmp {
namespace {

using storage::BackupJob;
using storage::DiskGraph;
using storage::Step;
using storage::ThrottleConfig;
using Prepare = Outcome<Step> (*)(DiskGraph&, Arguments&);

struct DeviceOrNode {
  std::string device, node;
  const std::string& name() const { return node.empty() ? device : node; }
};
Outcome<DeviceOrNode> device_or_node(Arguments& arguments, const char* device, const char* node) {
  DeviceOrNode given{QMP_TRY(arguments.maybe_text(device)).value_or(""), QMP_TRY(arguments.maybe_text(node)).value_or("")};
  if (given.name().empty()) return refuse(std::string("Parameter '") + device + "' is missing");
  return given;
}
// The name of what is there.
Outcome<std::string> find(DiskGraph& graph, const DeviceOrNode& given) {
  auto at = graph.place(given.name());
  if (!at && at.error().kind == ErrorKind::kNotFound) return refuse("Cannot find device='" + given.device + "' nor node-name='" + given.node + "'");
  if (!at) return refuse(at.error());
  return given.name();
}

Outcome<Step> snapshot_sync(DiskGraph& graph, Arguments& arguments) {
  const DeviceOrNode given = QMP_TRY(device_or_node(arguments, "device", "node-name"));
  DiskGraph::SnapshotWish wish;
  wish.file = QMP_TAKE(storage::plain_path(QMP_TRY(arguments.text("snapshot-file"))));
  wish.node_name = QMP_TRY(arguments.maybe_text("snapshot-node-name")).value_or("");
  wish.format = QMP_TRY(arguments.maybe_text("format")).value_or("qcow2");
  wish.existing = QMP_TRY(arguments.is("mode", {"absolute-paths", "existing"}, "absolute-paths", "existing"));
  QMP_TRY(arguments.end());
  wish.device = QMP_TRY(find(graph, given));
  return QMP_TAKE(graph.snapshot(wish));
}

Outcome<Step> snapshot(DiskGraph& graph, Arguments& arguments) {
  DiskGraph::SnapshotWish wish{.device = QMP_TRY(arguments.text("node"))};
  wish.overlay = QMP_TRY(arguments.text("overlay"));
  QMP_TRY(arguments.end());
  return QMP_TAKE(graph.snapshot(wish));
}

Outcome<Step> internal_snapshot(DiskGraph& graph, Arguments& arguments) {
  const std::string device = QMP_TRY(arguments.text("device")), name = QMP_TRY(arguments.text("name"));
  QMP_TRY(arguments.end());
  return QMP_TAKE(graph.internal_snapshot(device, name));
}

Outcome<Step> backup(DiskGraph& graph, Arguments& arguments, bool drive) {
  DiskGraph::BackupWish wish{.device = QMP_TRY(arguments.text("device"))};
  wish.job = QMP_TRY(take_job(arguments, wish.device));
  wish.target = QMP_TRY(take_target(arguments, drive));
  const std::string sync = QMP_TRY(arguments.word("sync", {"full", "top", "none", "incremental", "bitmap"}, nullptr));
  using Sync = BackupJob::Sync;
  wish.sync = sync == "full" ? Sync::kFull : sync == "top" ? Sync::kTop : sync == "none" ? Sync::kNone : Sync::kBitmap;
  wish.bitmap = QMP_TRY(arguments.maybe_text("bitmap")).value_or("");
  const std::string mode = QMP_TRY(arguments.word("bitmap-mode", {"on-success", "never"}, sync == "bitmap" ? nullptr : "on-success"));
  wish.bitmap_mode = mode == "never" ? DiskGraph::BackupWish::BitmapMode::kNever : DiskGraph::BackupWish::BitmapMode::kOnSuccess;
  if (sync == "incremental" && mode == "never") return refuse("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
  wish.compress = QMP_TRY(arguments.flag("compress", false));
  QMP_TRY(arguments.end());
  return QMP_TAKE(graph.backup(std::move(wish)));
}
Outcome<Step> drive_backup(DiskGraph& graph, Arguments& arguments) { return backup(graph, arguments, true); }
Outcome<Step> blockdev_backup(DiskGraph& graph, Arguments& arguments) { return backup(graph, arguments, false); }

Outcome<Step> bitmap_add(DiskGraph& graph, Arguments& arguments) {
  const std::string node = QMP_TRY(arguments.text("node")), name = QMP_TRY(arguments.text("name"));
  const uint64_t granularity = QMP_TRY(arguments.size_or("granularity", 65536));
  const bool persistent = QMP_TRY(arguments.flag("persistent", false)), disabled = QMP_TRY(arguments.flag("disabled", false));
  QMP_TRY(arguments.end());
  if (!std::has_single_bit(granularity)) return refuse("Granularity must be power of 2");
  return QMP_TAKE(graph.add_bitmap(node, name, static_cast<unsigned>(std::countr_zero(granularity)), persistent, !disabled));
}

Outcome<DiskGraph::BitmapName> bitmap_name(Arguments& arguments) {
  DiskGraph::BitmapName out{QMP_TRY(arguments.text("node")), QMP_TRY(arguments.text("name"))};
  QMP_TRY(arguments.end());
  return out;
}
Outcome<Step> bitmap_remove(DiskGraph& graph, Arguments& arguments) {
  auto which = QMP_TRY(bitmap_name(arguments));
  return QMP_TAKE(graph.remove_bitmap(which.node, which.name));
}
Outcome<Step> bitmap_clear(DiskGraph& graph, Arguments& arguments) {
  auto which = QMP_TRY(bitmap_name(arguments));
  return QMP_TAKE(graph.clear_bitmap(which.node, which.name));
}
Outcome<Step> bitmap_enable(DiskGraph& graph, Arguments& arguments) {
  auto which = QMP_TRY(bitmap_name(arguments));
  return QMP_TAKE(graph.enable_bitmap(which.node, which.name, true));
}
Outcome<Step> bitmap_disable(DiskGraph& graph, Arguments& arguments) {
  auto which = QMP_TRY(bitmap_name(arguments));
  return QMP_TAKE(graph.enable_bitmap(which.node, which.name, false));
}
Outcome<Step> bitmap_merge(DiskGraph& graph, Arguments& arguments) {
  const std::string node = QMP_TRY(arguments.text("node")), target = QMP_TRY(arguments.text("target"));
  const Json list = QMP_TRY(arguments.list("bitmaps"));
  QMP_TRY(arguments.end());
  std::vector<DiskGraph::BitmapName> from;
  for (const Json& one : list) {
    if (one.is_string()) {
      from.push_back({node, one.get<std::string>()});
    } else if (one.is_object()) {
      Arguments which(one);
      from.push_back(QMP_TRY(bitmap_name(which)));
    } else {
      return refuse("Invalid parameter type for 'bitmaps', expected: BlockDirtyBitmapOrStr");
    }
  }
  return QMP_TAKE(graph.merge_bitmaps({node, target}, from));
}

Outcome<Step> abort_all(DiskGraph&, Arguments& arguments) {
  QMP_TRY(arguments.end());
  Step step;
  step.commit = []() -> Result<> { return fail(ErrorKind::kInvalid, "Transaction aborted using Abort action"); };
  return step;
}

struct Action {
  const char* name;
  Prepare prepare;
  bool command = true;  // by itself, too
};
constexpr Action kActions[] = {
    {"blockdev-snapshot-sync", snapshot_sync}, {"blockdev-snapshot", snapshot}, {"blockdev-snapshot-internal-sync", internal_snapshot}, {"drive-backup", drive_backup},
    {"blockdev-backup", blockdev_backup}, {"block-dirty-bitmap-add", bitmap_add}, {"block-dirty-bitmap-remove", bitmap_remove}, {"block-dirty-bitmap-clear", bitmap_clear},
    {"block-dirty-bitmap-enable", bitmap_enable}, {"block-dirty-bitmap-disable", bitmap_disable}, {"block-dirty-bitmap-merge", bitmap_merge}, {"abort", abort_all, false},
};

Answer transaction(DiskGraph& graph, Arguments& arguments) {
  const Json list = QMP_TRY(arguments.list("actions"));
  if (auto properties = QMP_TRY(arguments.maybe_object("properties"))) {
    Arguments inner(*properties);
    QMP_TRY(inner.word("completion-mode", {"individual"}, "individual"));
    QMP_TRY(inner.end());
  }
  QMP_TRY(arguments.end());
  if (list.size() > 256) return refuse("a transaction has at most 256 actions");
  std::lock_guard lock(graph.mutex());
  std::vector<Step> steps;
  for (const Json& one : list) {
    if (!one.is_object()) return refuse("Invalid parameter type for 'actions', expected: object");
    Arguments outer(one);
    const std::string type = QMP_TRY(outer.text("type"));
    auto data = QMP_TRY(outer.maybe_object("data"));
    QMP_TRY(outer.end());
    const Action* action = nullptr;
    for (const Action& known : kActions)
      if (type == known.name) action = &known;
    if (!action) return refuse("Parameter 'type' does not accept value '" + type + "'");
    Arguments inner(data.value_or(Json::object()));
    steps.push_back(QMP_TRY(action->prepare(graph, inner)));
  }
  QMP_DO(graph.carry_out(std::move(steps)));
  return Json::object();
}

Answer set_throttle(DiskGraph& graph, Arguments& arguments) {
  const DeviceOrNode given = QMP_TRY(device_or_node(arguments, "device", "id"));
  static constexpr const char* kNames[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
  ThrottleConfig config;
  for (size_t i = 0; i < ThrottleConfig::kKinds; ++i) {
    const std::string name = kNames[i];
    if (!arguments.has(kNames[i])) return refuse("Parameter '" + name + "' is missing");
    config.limits[i] = {.average = QMP_TRY(arguments.size_or(kNames[i], 0)), .max = QMP_TRY(arguments.size_or((name + "_max").c_str(), 0)),
                        .burst_seconds = QMP_TRY(arguments.size_or((name + "_max_length").c_str(), 1))};
  }
  config.iops_size = QMP_TRY(arguments.size_or("iops_size", 0));
  QMP_TRY(arguments.end());
  QMP_DO(config.check());
  std::lock_guard lock(graph.mutex());
  auto at = QMP_TRY(find_device(graph, given.name()));
  at.disk->set_throttle(config);
  return Json::object();
}

}  // namespace

void add_action_commands(Server& server, DiskGraph& graph) {
  for (const Action& action : kActions) {
    if (!action.command) continue;
    server.add(action.name, [&graph, prepare = action.prepare](Arguments& arguments) -> Answer {
      std::lock_guard lock(graph.mutex());
      std::vector<Step> steps;
      steps.push_back(QMP_TRY(prepare(graph, arguments)));
      QMP_DO(graph.carry_out(std::move(steps)));
      return Json::object();
    });
  }
  server.add("transaction", [&graph](Arguments& arguments) { return transaction(graph, arguments); });
  server.add("block_set_io_throttle", [&graph](Arguments& arguments) { return set_throttle(graph, arguments); });
  server.add("blockdev-snapshot-delete-internal-sync", [&graph](Arguments& arguments) -> Answer {
    const std::string device = QMP_TRY(arguments.text("device"));
    const std::string id = QMP_TRY(arguments.maybe_text("id")).value_or(""), name = QMP_TRY(arguments.maybe_text("name")).value_or("");
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    const auto s = QMP_TAKE(graph.delete_internal_snapshot(device, id, name));
    return Json{{"id", s.id}, {"name", s.name}, {"vm-state-size", s.vm_state_size}, {"date-sec", s.date_sec}, {"date-nsec", s.date_nsec},
                {"vm-clock-sec", s.vm_clock_nsec / 1'000'000'000}, {"vm-clock-nsec", s.vm_clock_nsec % 1'000'000'000}};
  });
  server.add("block_resize", [&graph](Arguments& arguments) -> Answer {
    const DeviceOrNode given = QMP_TRY(device_or_node(arguments, "device", "node-name"));
    const int64_t size = QMP_TRY(arguments.integer("size"));
    QMP_TRY(arguments.end());
    if (size < 0) return refuse("Parameter 'size' expects a >0 size");
    std::lock_guard lock(graph.mutex());
    QMP_DO(graph.resize(QMP_TRY(find(graph, given)), static_cast<uint64_t>(size)));
    return Json::object();
  });
}

}  // namespace vireo::control::qmp
