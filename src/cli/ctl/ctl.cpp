// SPDX-License-Identifier: Apache-2.0
#include "cli/ctl/ctl.h"

#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <string_view>

#include "cli/ctl/client.h"
#include "cli/ctl/words.h"
#include "cli/standard_files.h"

namespace vireo::cli::ctl {
namespace {

constexpr char kHelp[] = R"(vireo ctl: control a running machine
  vireo ctl [MACHINE] COMMAND [WORD]... [NAME=VALUE]...
  MACHINE            its process number, its --name, or its socket. Without it the only machine of this user is taken
  list               the machines of this user
  events             what happens, one event a line, until the machine ends
  qmp JSON           a command of QEMU's machine protocol, or its name alone
  --json             the answer as it comes
  --wait             behind a command that begins a job: until it has ended, or is ready (or pending, with auto-finalize=false)
)";
constexpr char kMore[] = R"(NAME=VALUE are arguments by their names in QMP, as speed=10M. Disks are named disk0, disk1 ... or by --disk's id=.
Exit status: 0, or 1 with one line that says why.
)";

void print_help() {
  fputs(kHelp, stdout);
  for (const Word& word : words()) printf("  %-18s %s\n", word.words, word.help);
  fputs(kMore, stdout);
}

// An answer for a person: indented, without brackets.
void print(const Json& value, int indent) {
  const std::string space(static_cast<size_t>(indent), ' ');
  auto scalar = [](const Json& v) { return v.is_string() ? v.get<std::string>() : v.dump(-1, ' ', false, Json::error_handler_t::replace); };
  if (value.is_object()) {
    for (auto& [key, member] : value.items()) {
      if (member.is_structured() && !member.empty()) {
        printf("%s%s:\n", space.c_str(), key.c_str());
        print(member, indent + 2);
      } else {
        printf("%s%s: %s\n", space.c_str(), key.c_str(), member.is_structured() ? "-" : scalar(member).c_str());
      }
    }
  } else if (value.is_array()) {
    bool first = true;
    for (const Json& member : value) {
      if (member.is_structured()) {
        if (!std::exchange(first, false)) printf("\n");
        print(member, indent);
      } else {
        printf("%s%s\n", space.c_str(), scalar(member).c_str());
      }
    }
  } else {
    printf("%s%s\n", space.c_str(), scalar(value).c_str());
  }
}

Result<int> report(const Json& answer, bool json) {
  if (auto error = answer.find("error"); error != answer.end() && error->is_object()) {
    if (json) printf("%s\n", answer.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    return fail(ErrorKind::kInvalid, "ctl: " + error->value("desc", std::string("refused")));
  }
  const Json value = answer.value("return", Json::object());
  if (json) printf("%s\n", value.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  else if (!value.empty()) print(value, 0);
  return 0;
}

Result<int> show_events(Client& client) {
  for (;;) {
    auto event = TRY(client.event());
    if (!event) return 0;
    printf("%s\n", event->dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    flush_output();
  }
}

// Until the job has ended or is ready, with its progress on a terminal.
Result<int> wait_for(Client& client, const std::string& job) {
  const bool terminal = isatty(STDERR_FILENO);
  for (;;) {
    Json answer = TRY(client.execute("query-block-jobs", Json::object()));
    const Json jobs = answer.value("return", Json::array());
    bool there = false, ready = false, over = false;
    std::string error;
    for (const Json& one : jobs) {
      if (!one.is_object() || one.value("device", "") != job) continue;
      there = true;
      // Waits to be told to complete, or to finalize.
      ready = one.value("ready", false) || (one.value("status", "") == "pending" && !one.value("auto-finalize", true));
      over = one.value("status", "") == "concluded";  // and waits to be dismissed
      error = one.value("error", "");
      const double all = one.value("len", 0.0), done = one.value("offset", 0.0);
      if (terminal) fprintf(stderr, "\r%s: %3.0f%%", job.c_str(), all > 0 ? 100 * done / all : 0);
    }
    if (there && !ready && !over) {
      usleep(100'000);
      continue;
    }
    if (terminal) fprintf(stderr, "\n");
    if (over && !error.empty()) return fail(ErrorKind::kIo, "ctl: " + error);
    if (ready) return 0;
    for (;;) {
      auto event = TRY(client.event());
      if (!event) return fail(ErrorKind::kIo, "ctl: the machine has ended");
      const std::string name = event->value("event", "");
      const Json data = event->value("data", Json::object());
      if (data.value("device", "") != job) continue;
      if (name == "BLOCK_JOB_CANCELLED") return fail(ErrorKind::kIo, "ctl: the job was cancelled");
      if (name != "BLOCK_JOB_COMPLETED") continue;
      if (data.contains("error")) return fail(ErrorKind::kIo, "ctl: " + data.value("error", ""));
      return 0;
    }
  }
}

// QMP makes a disk smaller without a word, as QEMU does; a person may only have left out the letter behind the size.
Result<> refuse_shrinking(Client& client, Json& arguments) {
  const Json shrink = arguments.value("shrink", Json(false));
  arguments.erase("shrink");
  if (!shrink.is_boolean()) return fail(ErrorKind::kInvalid, "ctl block resize: shrink is true or false");
  const Json size = arguments.value("size", Json());
  if (shrink.get<bool>() || !size.is_number_unsigned()) return {};
  const std::string device = arguments.value("device", "");
  const Json answer = TRY(client.execute("query-block", Json::object()));
  for (const Json& disk : answer.value("return", Json::array())) {
    if (!disk.is_object() || disk.value("device", "") != device) continue;
    const uint64_t now = disk.value("/inserted/image/virtual-size"_json_pointer, uint64_t{0});
    if (size.get<uint64_t>() < now)
      return fail(ErrorKind::kInvalid, "ctl block resize: " + device + " has " + std::to_string(now) + " bytes, and what lies behind " + size.dump() +
                                           " would be lost; shrink=true does it");
  }
  return {};
}

Result<int> list(bool json) {
  Json out = Json::array();
  for (const Running& one : running_machines()) {
    if (json) out.push_back({{"process", one.process}, {"name", one.name}, {"socket", one.socket}, {"answers", one.answers}});
    else printf("%d %s\n", one.process, one.answers ? one.name.c_str() : "(does not answer)");
  }
  if (json) printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace

Result<int> run(int argc, char** argv) {
  std::vector<std::string> given;
  bool json = false, wait = false;
  for (int i = 0; i < argc; ++i) {
    const std::string text = argv[i];
    if (text == "--help" || text == "-h") return print_help(), 0;
    if (text == "--json") json = true;
    else if (text == "--wait") wait = true;
    else if (text.starts_with("--")) return fail(ErrorKind::kInvalid, "ctl: unknown option " + text + " (see vireo ctl --help)");
    else given.push_back(text);
  }
  if (given.empty()) return fail(ErrorKind::kInvalid, "ctl: a command is missing (see vireo ctl --help)");
  if (given[0] == "list" && given.size() == 1) return list(json);
  auto special = [&] { return !given.empty() && (given[0] == "qmp" || given[0] == "events"); };
  size_t used = 0;
  const Word* word = find_word(given, used);
  std::string machine;
  if (!word && !special()) {
    machine = given[0];
    given.erase(given.begin());
    word = find_word(given, used);
    if (!word && !special()) {
      const std::string& first = given.empty() || !second_words(machine).empty() ? machine : given[0];
      const std::string second = second_words(first);
      if (!second.empty()) return fail(ErrorKind::kInvalid, "ctl " + first + ": is followed by one of " + second);
      return fail(ErrorKind::kInvalid, "ctl: unknown command " + first + " (see vireo ctl --help)");
    }
  }
  Json words_arguments;
  if (word) words_arguments = TRY(arguments(*word, {given.begin() + static_cast<long>(used), given.end()}));
  if (given[0] == "qmp" && given.size() != 2) return fail(ErrorKind::kInvalid, "ctl qmp: one command as JSON, or its name, is needed");
  const bool whole = given[0] == "qmp" && given[1].find('{') != std::string::npos;
  // The machine would wait for the rest of a value that has no end, and no answer come.
  if (whole && !Json::accept(given[1])) return fail(ErrorKind::kInvalid, "ctl qmp: " + given[1] + ": not one JSON value");
  Client client = TRY(Client::connect(TRY(find_socket(machine))));
  if (!word && given[0] == "events") return show_events(client);
  if (!word) return report(TRY(whole ? client.say(given[1] + "\n") : client.execute(given[1], Json::object())), json);
  if (word->command == std::string_view("block_resize")) TRY_VOID(refuse_shrinking(client, words_arguments));
  const int status = TRY(report(TRY(client.execute(word->command, words_arguments)), json));
  if (!wait || !word->job) return status;
  return wait_for(client, words_arguments.value("job-id", words_arguments.value("device", "")));
}

}  // namespace vireo::cli::ctl
