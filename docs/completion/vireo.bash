# SPDX-License-Identifier: Apache-2.0
# Completion for bash: source this file, or put it into /usr/share/bash-completion/completions/vireo.
_vireo() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W 'run img io nbd kvm stat ctl --version --help' -- "$word")
    return
  fi
  if [[ ${COMP_WORDS[1]} == img ]]; then
    compopt -o filenames
    ((COMP_CWORD > 2)) && mapfile -t COMPREPLY < <(compgen -f -- "$word") ||
      mapfile -t COMPREPLY < <(compgen -W 'amend bench bitmap check commit compare convert create dd info map measure rebase resize snapshot' -- "$word")
    return
  fi
  if [[ ${COMP_WORDS[1]} == io || ${COMP_WORDS[1]} == nbd ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
    return
  fi
  if [[ ${COMP_WORDS[1]} == stat ]]; then
    local i process=
    for ((i = 2; i < COMP_CWORD; i++)); do
      [[ ${COMP_WORDS[i]} =~ ^[0-9]+$ && ${COMP_WORDS[i - 1]} != --[ic]* ]] && process=${COMP_WORDS[i]}
    done
    [[ $before == --interval || $before == --count ]] || mapfile -t COMPREPLY < <(compgen -W "$([[ $process ]] || vireo stat --list 2> /dev/null)
      $(vireo stat $process --once --all 2> /dev/null | sed -n '4,$s/^\([a-z][a-z0-9_]*\) .*/\1/p')
      --interval --count --once --per-vcpu --all --json --list --help" -- "$word")
    return
  fi
  if [[ ${COMP_WORDS[1]} == ctl ]]; then
    if [[ $before == block ]]; then
      mapfile -t COMPREPLY < <(compgen -W 'list nodes stats jobs snapshot save forget stream commit mirror backup complete cancel pause resume speed resize throttle' -- "$word")
    elif [[ $before == bitmap ]]; then
      mapfile -t COMPREPLY < <(compgen -W 'add remove clear enable disable' -- "$word")
    elif ((COMP_CWORD < 4)); then
      mapfile -t COMPREPLY < <(compgen -W "$(vireo ctl list 2> /dev/null) list status stop cont powerdown reset wakeup screen screendump quit block bitmap qmp events --json --wait --help" -- "$word")
    else
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -f -- "$word")
    fi
    return
  fi
  case $before in
    --kernel | --initrd | --config | --disk | --guest-symbols | --jitdump) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    --code-cache) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
    --cpu) compopt -o nospace; mapfile -t COMPREPLY < <(compgen -W 'host max x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4' -- "$word") ;;
    --qmp) compopt -o nospace; mapfile -t COMPREPLY < <(compgen -W 'unix:' -- "$word") ;;
    --firmware | --bios) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -W 'seabios ovmf' -- "$word") ;;
    --board) mapfile -t COMPREPLY < <(compgen -W 'q35 microvm' -- "$word") ;;
    --hpet) mapfile -t COMPREPLY < <(compgen -W 'on off' -- "$word") ;;
    --vga) compopt -o nospace; mapfile -t COMPREPLY < <(compgen -W 'std none std,rom=' -- "$word") ;;
    --accel) mapfile -t COMPREPLY < <(compgen -W 'auto kvm soft' -- "$word") ;;
    --net) compopt -o nospace; mapfile -t COMPREPLY < <(compgen -W 'user tap,ifname= none' -- "$word") ;;
    --serial | --console) compopt -o nospace; mapfile -t COMPREPLY < <(compgen -W 'stdio file: null pty' -- "$word") ;;
    --boot-protocol) mapfile -t COMPREPLY < <(compgen -W 'auto linux64 linux32 pvh multiboot' -- "$word") ;;
    --help) mapfile -t COMPREPLY < <(compgen -W 'memory cpu disk net serial accel board firmware vga config qmp perf code-cache exit' -- "$word") ;;
    --append | --memory | --numa | --cpus | --cpu-affinity | --debug-exit | --name) ;;
    *) mapfile -t COMPREPLY < <(compgen -W '--kernel --initrd --append --boot-protocol --memory --cpus --cpu --numa
         --cpu-affinity --board --hpet --firmware --vga --accel --disk --net --serial --console --rng --no-reboot --config --debug-exit
         --perf-map --jitdump --guest-symbols --code-cache --name --qmp
         --testdev --help' -- "$word") ;;
  esac
}
complete -F _vireo vireo
