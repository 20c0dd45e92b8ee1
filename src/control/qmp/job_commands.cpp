// SPDX-License-Identifier: Apache-2.0
// Jobs: beginning them, looking at them, and what can be told to them; and the events that they make.
#include "control/qmp/block_commands.h"
#include "control/qmp/job_options.h"

namespace vireo::control::qmp {

using storage::DiskGraph;
using storage::Job;
using storage::JobState;
using storage::MirrorJob;

void JobEvents::emit(const char* name, const Json& data) { server_.post(name, data); }

namespace {

// Jobs that QEMU calls block jobs have events of their own beside.
bool is_block_job(const JobState& state) { return state.type != "create"; }
Json block_job(const JobState& state) {
  return {{"type", state.type}, {"device", state.id}, {"len", state.length}, {"offset", state.offset}, {"speed", state.speed}};
}

}  // namespace

void JobEvents::status_changed(const JobState& state) { emit("JOB_STATUS_CHANGE", {{"id", state.id}, {"status", storage::word(state.status)}}); }
void JobEvents::ready(const JobState& state) { emit("BLOCK_JOB_READY", block_job(state)); }
void JobEvents::ended(const JobState& state) {
  if (!is_block_job(state)) return;
  Json data = block_job(state);
  if (!state.error.empty()) data["error"] = state.error;
  emit(state.cancelled ? "BLOCK_JOB_CANCELLED" : "BLOCK_JOB_COMPLETED", data);
}
void JobEvents::error(const JobState& state, const char* operation, const char* action) {
  emit("BLOCK_JOB_ERROR", {{"device", state.id}, {"operation", operation}, {"action", action}});
}
void JobEvents::pending(const JobState& state) {
  if (is_block_job(state)) emit("BLOCK_JOB_PENDING", {{"type", state.type}, {"id", state.id}});
}

void add_job_commands(Server& server, DiskGraph& graph) {
  server.add("query-block-jobs", [&graph](Arguments& arguments) -> Answer {
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    Json list = Json::array();
    for (const JobState& s : graph.jobs().states()) {
      if (!is_block_job(s)) continue;
      Json one = block_job(s);
      one.update({{"busy", s.busy}, {"paused", s.paused}, {"io-status", s.io_status}, {"ready", s.status == storage::JobStatus::kReady || s.status == storage::JobStatus::kStandby},
                  {"status", storage::word(s.status)}, {"auto-finalize", s.auto_finalize}, {"auto-dismiss", s.auto_dismiss}});
      if (!s.error.empty()) one["error"] = s.error;
      list.push_back(std::move(one));
    }
    return list;
  });
  server.add("query-jobs", [&graph](Arguments& arguments) -> Answer {
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    Json list = Json::array();
    for (const JobState& s : graph.jobs().states()) {
      list.push_back({{"id", s.id}, {"type", s.type}, {"status", storage::word(s.status)}, {"current-progress", s.offset}, {"total-progress", s.length}});
      if (!s.error.empty()) list.back()["error"] = s.error;
    }
    return list;
  });
  // What is told to a job: as a block job by "device", as a job by "id". Arguments are looked at first.
  using Act = std::function<Result<>(Job&)>;
  using Verb = std::function<Outcome<Act>(Arguments&)>;
  auto tell = [&](const char* command, const char* key, Verb verb) {
    const bool block = std::string_view(command).starts_with("block-");
    server.add(command, [&graph, key, block, verb = std::move(verb)](Arguments& arguments) -> Answer {
      const std::string id = QMP_TRY(arguments.text(key));
      const Act act = QMP_TRY(verb(arguments));
      std::lock_guard lock(graph.mutex());
      Job* job = graph.jobs().find(id);
      if (!job && block) return refuse("Block job '" + id + "' not found", "DeviceNotActive");
      if (!job) return refuse("Job not found");
      QMP_DO(act(*job));
      graph.jobs().reap();
      return Json::object();
    });
  };
  auto plain = [](Result<> (Job::*what)()) -> Verb {
    return [what](Arguments& arguments) -> Outcome<Act> {
      QMP_TRY(arguments.end());
      return [what](Job& job) { return (job.*what)(); };
    };
  };
  for (const char* key : {"device", "id"}) {
    const bool block = key[0] == 'd';
    tell(block ? "block-job-pause" : "job-pause", key, plain(&Job::pause));
    tell(block ? "block-job-resume" : "job-resume", key, plain(&Job::resume));
    tell(block ? "block-job-complete" : "job-complete", key, plain(&Job::complete));
  }
  for (const char* command : {"block-job-finalize", "job-finalize"}) tell(command, "id", plain(&Job::finalize));
  for (const char* command : {"block-job-dismiss", "job-dismiss"}) tell(command, "id", plain(&Job::dismiss));
  tell("block-job-cancel", "device", [](Arguments& arguments) -> Outcome<Act> {
    const bool force = QMP_TRY(arguments.flag("force", false));
    QMP_TRY(arguments.end());
    return [force](Job& job) { return job.cancel(force); };
  });
  tell("job-cancel", "id", [](Arguments& arguments) -> Outcome<Act> {
    QMP_TRY(arguments.end());
    return [](Job& job) { return job.cancel(true); };
  });
  tell("block-job-set-speed", "device", [](Arguments& arguments) -> Outcome<Act> {
    const uint64_t speed = QMP_TRY(arguments.size("speed"));
    QMP_TRY(arguments.end());
    return [speed](Job& job) { return job.set_speed(speed); };
  });

  server.add("block-stream", [&graph](Arguments& arguments) -> Answer {
    DiskGraph::StreamWish wish{.device = QMP_TRY(arguments.text("device"))};
    wish.job = QMP_TRY(take_job(arguments, wish.device));
    wish.base_file = QMP_TRY(arguments.maybe_text("base")).value_or("");
    wish.base_node = QMP_TRY(arguments.maybe_text("base-node")).value_or("");
    wish.bottom_node = QMP_TRY(arguments.maybe_text("bottom")).value_or("");
    wish.backing_name = QMP_TRY(arguments.maybe_text("backing-file")).value_or("");
    QMP_TRY(arguments.end());
    if (!wish.base_file.empty() + !wish.base_node.empty() + !wish.bottom_node.empty() > 1) return refuse("'base', 'base-node' and 'bottom' cannot be specified at the same time");
    if (!wish.backing_name.empty() && wish.base_file.empty() && wish.base_node.empty() && wish.bottom_node.empty()) return refuse("backing file specified, but streaming the entire chain");
    std::lock_guard lock(graph.mutex());
    QMP_DO(graph.stream(std::move(wish)));
    return Json::object();
  });
  server.add("block-commit", [&graph](Arguments& arguments) -> Answer {
    DiskGraph::CommitWish wish{.device = QMP_TRY(arguments.text("device"))};
    wish.job = QMP_TRY(take_job(arguments, wish.device));
    wish.base_file = QMP_TRY(arguments.maybe_text("base")).value_or("");
    wish.base_node = QMP_TRY(arguments.maybe_text("base-node")).value_or("");
    wish.top_file = QMP_TRY(arguments.maybe_text("top")).value_or("");
    wish.top_node = QMP_TRY(arguments.maybe_text("top-node")).value_or("");
    wish.backing_name = QMP_TRY(arguments.maybe_text("backing-file")).value_or("");
    QMP_TRY(arguments.end());
    std::lock_guard lock(graph.mutex());
    QMP_TRY(find_device(graph, wish.device));
    QMP_DO(graph.commit(std::move(wish)));
    return Json::object();
  });
  for (const char* command : {"drive-mirror", "blockdev-mirror"}) {
    const bool drive = command[0] == 'd';
    server.add(command, [&graph, drive](Arguments& arguments) -> Answer {
      DiskGraph::MirrorWish wish{.device = QMP_TRY(arguments.text("device"))};
      wish.job = QMP_TRY(take_job(arguments, wish.device));
      wish.target = QMP_TRY(take_target(arguments, drive));
      const std::string sync = QMP_TRY(arguments.word("sync", {"full", "top", "none"}, nullptr));
      wish.sync = sync == "full" ? MirrorJob::Sync::kFull : sync == "top" ? MirrorJob::Sync::kTop : MirrorJob::Sync::kNone;
      wish.write_blocking = QMP_TRY(arguments.is("copy-mode", {"background", "write-blocking"}, "background", "write-blocking"));
      wish.granularity = QMP_TRY(arguments.size_or("granularity", 0));
      QMP_TRY(arguments.size_or("buf-size", 0));  // how it moves the bytes is our own affair
      QMP_TRY(arguments.flag("unmap", true));
      QMP_TRY(arguments.end());
      std::lock_guard lock(graph.mutex());
      QMP_DO(graph.mirror(std::move(wish)));
      return Json::object();
    });
  }
}

}  // namespace vireo::control::qmp
