# Runs the cases of a script in labs, a batch at a time. To be sourced, by a script that has set: guests (the command,
# which knows --list), work; and may have set passed, failed and skipped.

# Whether guests run in the lab's software CPU here.
in_software() { ! { [ -w /dev/kvm ] && grep -qwE 'svm|vmx' /proc/cpuinfo; }; }

# Where nothing is said for so long, it is the lab that hangs: whatever a case waits for has less time.
readonly longest_silence=300

# run_batches BATCH SECONDS [CASE...]: ends with the count.
run_batches() {
  local batch=$1 seconds=$2 name good
  shift 2
  passed=${passed:-0} failed=${failed:-0} skipped=${skipped:-0}
  local -a cases=() bad=()
  local -A tried=()
  if [ $# -gt 0 ]; then cases=("$@"); else mapfile -t cases < <("${guests[@]}" --list); fi

  # One CPU, since others work on this machine meanwhile. A case that fails in software is tried once more, in a fresh lab,
  # and said to be: a lab's kernel slept for minutes once in 200 starts before the lab's QEMU was corrected (qemu/), and what
  # a busy machine may still do to one is not known. On hardware a failure is one at once.
  while [ ${#cases[@]} -gt 0 ]; do
    tests/lab/lab --cpus 1 --memory 3072 --timeout "$seconds" --silence "$longest_silence" -- "${guests[@]}" "${cases[@]:0:batch}" | tee "$work/output" |
      grep --line-buffered -vE '^[0-9]+ passed, [0-9]+ failed$' || true
    good=$(grep -c '^ok ' "$work/output" || true)
    mapfile -t bad < <(sed -n 's/^FAILED  \([^ ]*\).*/\1/p' "$work/output")
    passed=$((passed + good))
    local reached=$((good + ${#bad[@]}))
    if [ "$reached" -lt "$batch" ] && [ "$reached" -lt ${#cases[@]} ]; then
      echo "the lab ended in ${cases[reached]}"
      bad+=("${cases[reached]}")
      reached=$((reached + 1))
    fi
    cases=("${cases[@]:reached}")
    for name in "${bad[@]}"; do
      if in_software && [ -z "${tried[$name]:-}" ]; then
        tried[$name]=yes
        cases+=("$name")
        echo "$name will be tried once more, since this is the software lab"
      else
        failed=$((failed + 1))
        echo "FAILED  $name, for good"
      fi
    done
  done
  [ ${#tried[@]} -eq 0 ] || echo "tried twice: ${!tried[*]}"
  if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
  else
    echo "$passed passed, $failed failed"
  fi
  [ "$failed" -eq 0 ]
}
