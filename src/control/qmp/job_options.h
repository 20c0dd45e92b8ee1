// SPDX-License-Identifier: Apache-2.0
// Arguments that several commands share.
#pragma once

#include "control/qmp/arguments.h"
#include "storage/jobs/disk_graph.h"

namespace vireo::control::qmp {

// job-id, speed, auto-finalize, auto-dismiss, on-error and the like.
Outcome<storage::Job::Config> take_job(Arguments& arguments, const std::string& device);
// A disk for the commands with which QEMU knows an error of its own when there is none.
Outcome<storage::DiskGraph::Place> find_device(storage::DiskGraph& graph, const std::string& name);
// Of drive-* commands a file, else a node.
Outcome<storage::DiskGraph::TargetWish> take_target(Arguments& arguments, bool drive);

}  // namespace vireo::control::qmp
