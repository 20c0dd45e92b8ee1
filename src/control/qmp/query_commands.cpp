// SPDX-License-Identifier: Apache-2.0
// What disks there are, and what is known of them.
#include "control/qmp/block_commands.h"

namespace vireo::control::qmp {
namespace {

using storage::DiskGraph;
using storage::ThrottleConfig;

// An image's description, and below it its backing file's.
Json image_info(storage::Image& image, unsigned depth = 0) {
  Json info = {{"filename", image.name()}, {"format", image.format()}, {"virtual-size", image.size()}, {"actual-size", image.file().allocated()}, {"dirty-flag", false}};
  if (image.cluster_size()) info["cluster-size"] = image.cluster_size();
  if (auto* qcow2 = storage::as_qcow2(image)) {
    if (!qcow2->header().backing_file.empty()) {
      info["backing-filename"] = qcow2->header().backing_file;
      if (!qcow2->header().backing_format().empty()) info["backing-filename-format"] = qcow2->header().backing_format();
    }
    Json snapshots = Json::array();
    for (const auto& s : qcow2->snapshots())
      snapshots.push_back({{"id", s.id}, {"name", s.name}, {"vm-state-size", s.vm_state_size}, {"date-sec", s.date_sec}, {"date-nsec", s.date_nsec},
                           {"vm-clock-sec", s.vm_clock_nsec / 1'000'000'000}, {"vm-clock-nsec", s.vm_clock_nsec % 1'000'000'000}});
    if (!snapshots.empty()) info["snapshots"] = snapshots;
  }
  if (image.backing() && depth < 8) {
    info["full-backing-filename"] = image.backing()->name();
    info["backing-image"] = image_info(*image.backing(), depth + 1);
  }
  return info;
}

Json bitmap_list(DiskGraph& graph, const DiskGraph::Place& at) {
  Json list = Json::array();
  for (const auto& b : graph.bitmaps(at)) {
    Json one = {{"name", b.name}, {"granularity", b.granularity}, {"count", b.count}, {"recording", b.recording}, {"busy", b.busy}, {"persistent", b.persistent}};
    if (b.inconsistent) one["inconsistent"] = true;
    list.push_back(std::move(one));
  }
  return list;
}

Json node_info(DiskGraph& graph, storage::LiveDisk& disk, const std::shared_ptr<storage::Image>& layer, bool top) {
  const std::string& cache = disk.config().cache;
  unsigned depth = 0;
  for (storage::Image* below = layer->backing(); below; below = below->backing()) ++depth;
  Json info = {{"node-name", graph.node_name(*layer)}, {"drv", layer->format()}, {"file", layer->name()}, {"ro", layer->read_only()}, {"backing_file_depth", depth},
               {"encrypted", false}, {"detect_zeroes", "off"}, {"write_threshold", 0}, {"image", image_info(*layer)},
               {"cache", {{"writeback", cache != "writethrough" && cache != "directsync"}, {"direct", disk.config().open.direct}, {"no-flush", disk.config().open.no_flush}}}};
  if (auto* qcow2 = storage::as_qcow2(*layer)) info["encrypted"] = qcow2->header().crypt != storage::qcow2::Crypt::kNone;
  if (layer->format() == std::string_view("luks")) info["encrypted"] = true;
  if (layer->backing()) info["backing_file"] = layer->backing()->name();
  static constexpr const char* kNames[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
  const ThrottleConfig throttle = top ? disk.throttle() : ThrottleConfig{};
  for (size_t i = 0; i < ThrottleConfig::kKinds; ++i) {
    info[kNames[i]] = throttle.limits[i].average;
    if (throttle.limits[i].max) info[std::string(kNames[i]) + "_max"] = throttle.limits[i].max, info[std::string(kNames[i]) + "_max_length"] = throttle.limits[i].burst_seconds;
  }
  if (throttle.iops_size) info["iops_size"] = throttle.iops_size;
  if (Json bitmaps = bitmap_list(graph, {&disk, layer}); !bitmaps.empty()) info["dirty-bitmaps"] = bitmaps;
  return info;
}

}  // namespace

void add_query_commands(Server& server, DiskGraph& graph) {
  server.add("query-block", [&graph](Arguments& arguments) -> Answer {
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    Json list = Json::array();
    for (storage::LiveDisk* disk : graph.disks()) {
      auto at = QMP_TAKE(graph.place(disk->config().id));
      Json one = {{"device", disk->config().id}, {"locked", false}, {"removable", false}, {"type", "unknown"}, {"inserted", node_info(graph, *disk, at.layer, true)}};
      if (const storage::Job* job = graph.jobs().working_on(disk->config().id)) one["io-status"] = const_cast<storage::Job*>(job)->state().io_status;
      list.push_back(std::move(one));
    }
    return list;
  });
  server.add("query-named-block-nodes", [&graph](Arguments& arguments) -> Answer {
    const bool flat = QMP_TRY(arguments.flag("flat", false));
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    Json list = Json::array();
    for (storage::LiveDisk* disk : graph.disks()) {
      auto at = QMP_TAKE(graph.place(disk->config().id));
      for (auto& layer : storage::layers(at.layer)) {
        list.push_back(node_info(graph, *disk, layer, layer == at.layer));
        if (flat) list.back()["image"].erase("backing-image");
      }
    }
    for (const auto& node : graph.nodes()) {
      Json one = {{"node-name", node.name}, {"drv", node.driver}, {"file", node.path}};
      if (node.image) one["ro"] = node.image->read_only(), one["image"] = image_info(*node.image);
      list.push_back(std::move(one));
    }
    return list;
  });
  server.add("query-blockstats", [&graph](Arguments& arguments) -> Answer {
    QMP_TRY(arguments.flag("query-nodes", false));
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    Json list = Json::array();
    for (storage::LiveDisk* disk : graph.disks()) {
      const storage::DiskStatistics s = disk->statistics();
      auto at = QMP_TAKE(graph.place(disk->config().id));
      list.push_back({{"device", disk->config().id}, {"node-name", graph.node_name(*at.layer)},
                      {"stats", {{"rd_bytes", s.read_bytes}, {"wr_bytes", s.write_bytes}, {"rd_operations", s.reads}, {"wr_operations", s.writes}, {"flush_operations", s.flushes},
                                 {"unmap_operations", s.discards}, {"unmap_bytes", s.discard_bytes}, {"wr_highest_offset", s.write_highest}}}});
    }
    return list;
  });
}

}  // namespace vireo::control::qmp
