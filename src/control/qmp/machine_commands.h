// SPDX-License-Identifier: Apache-2.0
// The commands that ask for a machine's state and change it. Meanings: QEMU's qapi/control.json, qapi/run-state.json, qapi/misc.json.
#pragma once

#include "control/qmp/server.h"

namespace vireo {
class Machine;
}

namespace vireo::control::qmp {

struct MachineIdentity {
  std::string name, uuid;
  bool kvm = false;  // guests run by KVM (or what stands in for it)
};
struct MachineHooks {
  std::function<void()> end;    // ends the machine; comes on the server's thread, after the answer to "quit" has been given
  std::function<void()> reset;  // a reset that is asked for here is about to come
};
void add_machine_commands(Server& server, EventLoop& loop, Machine& machine, MachineIdentity identity, MachineHooks hooks);
// What is on the screen: screendump as of qapi/ui.json, with one more format, "text"; and x-query-screen, which is ours.
void add_screen_commands(Server& server, Machine& machine);

}  // namespace vireo::control::qmp
