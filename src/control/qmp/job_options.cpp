// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/job_options.h"

namespace vireo::control::qmp {
namespace {

Outcome<storage::ErrorPolicy> take_policy(Arguments& arguments, const char* name) {
  using storage::ErrorPolicy;
  const std::string word = QMP_TRY(arguments.word(name, {"report", "ignore", "stop", "enospc", "auto"}, "report"));
  return word == "ignore" ? ErrorPolicy::kIgnore : word == "stop" ? ErrorPolicy::kStop : word == "enospc" || word == "auto" ? ErrorPolicy::kEnospc : ErrorPolicy::kReport;
}

}  // namespace

Outcome<storage::Job::Config> take_job(Arguments& arguments, const std::string& device) {
  storage::Job::Config config;
  config.id = QMP_TRY(arguments.maybe_text("job-id")).value_or(device);
  config.speed = QMP_TRY(arguments.size_or("speed", 0));
  config.auto_finalize = QMP_TRY(arguments.flag("auto-finalize", true));
  config.auto_dismiss = QMP_TRY(arguments.flag("auto-dismiss", true));
  if (arguments.has("on-error")) {
    config.on_source_error = config.on_target_error = QMP_TRY(take_policy(arguments, "on-error"));
  } else {
    config.on_source_error = QMP_TRY(take_policy(arguments, "on-source-error"));
    config.on_target_error = QMP_TRY(take_policy(arguments, "on-target-error"));
  }
  QMP_TRY(arguments.maybe_text("filter-node-name"));  // there is no such node here
  return config;
}

Outcome<storage::DiskGraph::Place> find_device(storage::DiskGraph& graph, const std::string& name) {
  auto at = graph.place(name);
  if (!at && at.error().kind == ErrorKind::kNotFound) return refuse("Device '" + name + "' not found", "DeviceNotFound");
  if (!at) return refuse(at.error());
  return *at;
}

Outcome<storage::DiskGraph::TargetWish> take_target(Arguments& arguments, bool drive) {
  storage::DiskGraph::TargetWish target;
  const std::string name = QMP_TRY(arguments.text("target"));
  if (!drive) {
    target.node = name;
    return target;
  }
  target.file = QMP_TAKE(storage::plain_path(name));
  target.format = QMP_TRY(arguments.maybe_text("format")).value_or("");
  target.existing = QMP_TRY(arguments.is("mode", {"absolute-paths", "existing"}, "absolute-paths", "existing"));
  target.node_name = QMP_TRY(arguments.maybe_text("node-name")).value_or("");
  return target;
}

}  // namespace vireo::control::qmp
