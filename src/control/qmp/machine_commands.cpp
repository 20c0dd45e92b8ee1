// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/machine_commands.h"

#include "machine/machine.h"

namespace vireo::control::qmp {
namespace {

const char* word(MachineStatus status) {
  switch (status) {
    case MachineStatus::kPrelaunch: return "prelaunch";
    case MachineStatus::kRunning: return "running";
    case MachineStatus::kPaused: return "paused";
    case MachineStatus::kSuspended: return "suspended";
    case MachineStatus::kEnded: break;
  }
  return "shutdown";
}

}  // namespace

void add_machine_commands(Server& server, EventLoop& loop, Machine& machine, MachineIdentity identity, MachineHooks hooks) {
  // A command without arguments that does something on the machine's own thread.
  auto act = [&](const char* name, std::function<void(Machine&)> what) {
    server.add(name, [&machine, what = std::move(what)](Arguments& arguments) -> Answer {
      QMP_TRY(arguments.end());
      machine.loop().call([&] { what(machine); });
      return Json::object();
    });
  };
  auto tell = [&](const char* name, std::function<Json()> what) {
    server.add(name, [what = std::move(what)](Arguments& arguments) -> Answer {
      QMP_TRY(arguments.end());
      return what();
    });
  };
  tell("query-version", [&server] { return version(server.package()); });
  tell("query-commands", [&server] {
    Json list = Json::array();
    for (const std::string& name : server.commands()) list.push_back({{"name", name}});
    return list;
  });
  tell("query-name", [identity] { return identity.name.empty() ? Json::object() : Json{{"name", identity.name}}; });
  tell("query-uuid", [identity] { return Json{{"UUID", identity.uuid}}; });
  tell("query-kvm", [identity] { return Json{{"enabled", identity.kvm}, {"present", true}}; });
  tell("query-status", [&machine] {
    MachineStatus status{};
    machine.loop().call([&] { status = machine.status(); });
    return Json{{"status", word(status)}, {"running", status == MachineStatus::kRunning}, {"singlestep", false}};
  });
  tell("query-cpus-fast", [&machine] {
    Json list = Json::array();
    // "qom-path" must be there; it names the vCPU, and no command takes it.
    for (unsigned i = 0; const int thread : machine.vcpu_threads())
      list.push_back({{"cpu-index", i}, {"qom-path", "/machine/cpu[" + std::to_string(i) + "]"}, {"thread-id", thread}, {"target", "x86_64"}}), ++i;
    return list;
  });
  server.add("cont", [&machine](Arguments& arguments) -> Answer {
    QMP_TRY(arguments.end());
    MachineStatus status{};
    machine.loop().call([&] {
      machine.resume();
      status = machine.status();
    });
    if (status == MachineStatus::kEnded) return refuse("Resetting the Virtual Machine is required");
    return Json::object();
  });
  act("stop", [](Machine& m) { m.pause(); });
  act("system_powerdown", [](Machine& m) { m.press_power_button(); });
  act("system_reset", [reset = std::move(hooks.reset)](Machine& m) {
    reset();
    m.request_reset();
  });
  act("system_wakeup", [](Machine& m) { m.request_wake(); });
  server.add("quit", [&server, &loop, end = std::move(hooks.end)](Arguments& arguments) -> Answer {
    QMP_TRY(arguments.end());
    // The event comes before the answer, as QEMU has it.
    server.emit("SHUTDOWN", {{"guest", false}, {"reason", "host-qmp-quit"}});
    loop.post([&server, end] {
      server.flush(1000);
      end();
    });
    return Json::object();
  });
}

}  // namespace vireo::control::qmp
