// SPDX-License-Identifier: Apache-2.0
// The commands about disks and jobs. Meanings: QEMU's qapi/block-core.json, qapi/block.json, qapi/job.json, qapi/transaction.json.
#pragma once

#include "control/qmp/server.h"
#include "storage/jobs/disk_graph.h"

namespace vireo::control::qmp {

// What jobs tell, as events; comes on any thread, goes out on the server's.
class JobEvents final : public storage::JobListener {
 public:
  explicit JobEvents(Server& server) : server_(server) {}
  void status_changed(const storage::JobState& state) override;
  void ready(const storage::JobState& state) override;
  void ended(const storage::JobState& state) override;
  void error(const storage::JobState& state, const char* operation, const char* action) override;
  void pending(const storage::JobState& state) override;

 private:
  void emit(const char* name, const Json& data);
  Server& server_;
};

void add_query_commands(Server& server, storage::DiskGraph& graph);
void add_job_commands(Server& server, storage::DiskGraph& graph);
void add_node_commands(Server& server, storage::DiskGraph& graph, storage::JobListener& listener);
// Snapshots, backups and bitmaps: alone, and several at one moment (transaction).
void add_action_commands(Server& server, storage::DiskGraph& graph);

}  // namespace vireo::control::qmp
