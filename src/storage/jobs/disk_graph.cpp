// SPDX-License-Identifier: Apache-2.0
// Names, nodes, and changes that come into effect together.
#include "storage/jobs/disk_graph.h"

#include <filesystem>

#include "base/log.h"

namespace vireo::storage {

std::string DiskGraph::node_name(const Image& image) {
  std::erase_if(names_, [](const NodeName& n) { return n.image.expired(); });
  for (const NodeName& n : names_)
    if (n.image.lock().get() == &image) return n.name;
  names_.push_back({image.weak_from_this(), "#block" + std::to_string(next_name_++)});
  return names_.back().name;
}

Result<DiskGraph::Place> DiskGraph::place(const std::string& name) {
  for (LiveDisk* disk : disks_)
    if (disk->config().id == name) {
      TRY(disk->go_live());
      return Place{disk, disk->live()->top()};
    }
  for (LiveDisk* disk : disks_) {
    if (!disk->live()) continue;
    for (auto& layer : layers(disk->live()->top()))
      if (node_name(*layer) == name) return Place{disk, layer};
  }
  return fail(ErrorKind::kNotFound, "Cannot find device='" + name + "' nor node-name='" + name + "'");
}

std::shared_ptr<Image> DiskGraph::layer_by_file(LiveDisk& disk, const std::string& file) {
  const auto chain = layers(disk.live()->top());
  for (auto& layer : chain)
    if (layer->name() == file) return layer;
  std::error_code error;
  for (auto& layer : chain)
    if (std::filesystem::equivalent(layer->name(), file, error) && !error) return layer;
  return nullptr;
}

Result<> DiskGraph::not_busy(LiveDisk& disk) {
  if (Job* job = jobs_.working_on(disk.config().id))
    return fail(ErrorKind::kBusy, "Node '" + disk.config().id + "' is busy: block device is in use by block job: " + job->state().type);
  return {};
}

DiskGraph::Node* DiskGraph::node(const std::string& name) {
  for (Node& n : nodes_)
    if (n.name == name) return &n;
  return nullptr;
}

Result<> DiskGraph::add_node(Node node) {
  if (place(node.name) || this->node(node.name)) return fail(ErrorKind::kInvalid, "Duplicate nodes with node-name='" + node.name + "'");
  if (node.image) name_node(*node.image, node.name);
  nodes_.push_back(std::move(node));
  return {};
}

Result<> DiskGraph::remove_node(const std::string& name) {
  if (place(name)) return fail(ErrorKind::kBusy, "Node " + name + " is in use");
  if (!node(name)) return fail(ErrorKind::kNotFound, "Failed to find node with node-name='" + name + "'");
  Result<> closed;
  for (auto at = nodes_.begin(); at != nodes_.end(); ++at)
    if (at->name == name) {
      if (at->image && at->image.use_count() > 1) return fail(ErrorKind::kBusy, "Node " + name + " is in use");
      if (at->image && !at->image->read_only()) closed = at->image->close();
      nodes_.erase(at);
      break;
    }
  return closed;
}

Result<std::shared_ptr<Image>> DiskGraph::take_node(const std::string& name) {
  Node* found = node(name);
  if (!found || !found->image) return fail(ErrorKind::kNotFound, "Cannot find device='" + name + "' nor node-name='" + name + "'");
  if (found->image.use_count() > 1) return fail(ErrorKind::kBusy, "Node " + name + " is in use");
  return found->image;
}

Result<> DiskGraph::carry_out(std::vector<Step> steps) {
  std::vector<LiveDisk*> disks;
  for (Step& step : steps)
    if (step.disk && std::ranges::find(disks, step.disk) == disks.end()) disks.push_back(step.disk);
  Result<> done;
  LiveDisk::change(disks, [&] {
    size_t made = 0;
    for (; made < steps.size() && done; ++made)
      if (steps[made].commit) done = steps[made].commit();
    if (!done) {
      --made;  // the one that failed has nothing to take back
      while (made-- > 0)
        if (steps[made].rollback) steps[made].rollback();
    }
    for (LiveDisk* disk : disks) attach_bitmaps(*disk);
  });
  for (Step& step : steps) step.commit = nullptr, step.rollback = nullptr;  // and what they hold on to
  for (Step& step : steps) {
    auto& last = done ? step.after : step.abandon;
    if (last) last();
  }
  return done;
}

Result<> DiskGraph::start(std::unique_ptr<Job> job) {
  jobs_.reap();
  Job* started = job.get();
  jobs_.add(std::move(job));
  started->start(listener_);
  return {};
}

Result<Job::Config> DiskGraph::named(Job::Config config, LiveDisk& disk) {
  config.disk = disk.config().id;
  if (config.id.empty()) config.id = disk.config().id;
  TRY_VOID(jobs_.check_new(config.id));
  return config;
}

}  // namespace vireo::storage
