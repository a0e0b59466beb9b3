#include "vmm/cli/completion.h"

#include <algorithm>
#include <functional>
#include <string_view>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// What may follow an option.
enum class Kind { Nothing, Text, File, Machine, Words };

Kind kind_of(const CommandOption& option) {
  const std::string_view value = option.value;
  if (value.empty()) return Kind::Nothing;
  // The ID of --id is one to be made up.
  if (value.starts_with("ID|PID") || (value == "ID" && option.is_positional)) return Kind::Machine;
  if (value.find('|') != std::string_view::npos) return Kind::Words;
  for (const std::string_view begin : {"FILE", "PATH", "[ID:]PATH", "SOCKET", "DIRECTORY", "TEMPLATE"})
    if (value.starts_with(begin)) return Kind::File;
  return Kind::Text;
}

/// "none|transparent|2M" with blanks.
std::string words_of(std::string value) {
  std::ranges::replace(value, '|', ' ');
  return value;
}

/// In single quotes, for any of the shells.
std::string in_single_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string{"'\\''"} : std::string{c};
  return out + "'";
}

/// Calls visit(place, command) for the command and all below it; `place`: "mayfly snapshot create".
void for_each_command(const CommandTree& tree, const std::string& place,
                      const std::function<void(const std::string&, const CommandTree&)>& visit) {
  visit(place, tree);
  for (const CommandTree& command : tree.commands) for_each_command(command, place + ' ' + command.name, visit);
}

std::string first_line(std::string_view comment, std::string_view shell) {
  return fmt::format("{} {} completion of mayfly, made by: mayfly completion {}\n", comment, shell, shell);
}

/// Of what `mayfly ps` prints: below its head, which has children of machines indented.
constexpr std::string_view kIdsOfList = "sed '1d; s/^ *//; s/ .*//'";

// --- bash ------------------------------------------------------------------------------------------------------------

/// Assignments that say what may stand for an option's value, or for a positional argument.
std::string bash_kind(const CommandOption& option) {
  switch (kind_of(option)) {
    case Kind::File:
      return "kind=file";
    case Kind::Machine:
      return "kind=machine";
    case Kind::Words:
      return "kind=words words=" + in_single_quotes(words_of(option.value));
    case Kind::Text:
    case Kind::Nothing:
      break;
  }
  return "kind=text";
}

/// The lines of the script's three tables.
struct BashTables {
  std::string values;    ///< What may stand behind an option.
  std::string commands;  ///< Which words are subcommands where.
  std::string places;    ///< What may stand at a place, but for values.
};

BashTables bash_tables(const CommandTree& tree) {
  BashTables tables;
  for_each_command(tree, tree.name, [&](const std::string& place, const CommandTree& command) {
    if (&command != &tree) tables.commands += fmt::format("      {}) place+=\" $word\" ;;\n", in_single_quotes(place));
    std::string options;
    std::string positional;
    for (const CommandTree& below : command.commands) options += below.name + ' ';
    for (const CommandOption& option : command.options) {
      if (option.is_positional) positional = ' ' + bash_kind(option);
      if (option.is_positional) continue;
      for (const std::string& name : option.names) {
        options.append(name) += ' ';
        if (!option.value.empty())
          tables.values +=
              fmt::format("    {}) {} ;;\n", in_single_quotes(fmt::format("{} {}", place, name)), bash_kind(option));
      }
    }
    tables.places +=
        fmt::format("      {}) options={}{} ;;\n", in_single_quotes(place), in_single_quotes(options), positional);
  });
  return tables;
}

std::string bash_script(const CommandTree& tree) {
  const BashTables tables = bash_tables(tree);
  std::string script = first_line("#", "bash");
  script +=
      "\n# Sets what may stand behind an option; fails where nothing does: _mayfly_value 'COMMAND OPTION'\n"
      "_mayfly_value() {\n"
      "  case $1 in\n" +
      tables.values +
      "    *) return 1 ;;\n"
      "  esac\n"
      "}\n\n";
  script +=
      "_mayfly() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} place=mayfly word kind='' words='' options='' i\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    word=${COMP_WORDS[i]}\n"
      "    if _mayfly_value \"$place $word\"; then\n"
      "      # --option=value comes as three words.\n"
      "      [ \"${COMP_WORDS[i + 1]:-}\" != = ] || i=$((i + 1))\n"
      "      i=$((i + 1))\n"
      "      continue\n"
      "    fi\n"
      "    case \"$place $word\" in\n" +
      tables.commands +
      "    esac\n"
      "  done\n";
  script +=
      "  [ \"$current\" != = ] || current=''\n"
      "  # Otherwise it is the value of an option, which the loop went past.\n"
      "  if ((i == COMP_CWORD)); then\n"
      "    kind='' words=''\n"
      "    case $place in\n" +
      tables.places +
      "    esac\n"
      "    if [[ $current == -* || -z $kind ]]; then kind=words words=$options; fi\n"
      "  fi\n";
  script +=
      "  COMPREPLY=()\n"
      "  case $kind in\n"
      "    words) mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\") ;;\n"
      "    machine)\n"
      "      words=$(\"$1\" ps 2>/dev/null | " +
      std::string{kIdsOfList} +
      ")\n"
      "      mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
      "      compopt -o default 2>/dev/null ;;\n"
      "    file) compopt -o default 2>/dev/null ;;\n"
      "  esac\n"
      "}\n"
      "complete -F _mayfly mayfly\n";
  return script;
}

// --- zsh -------------------------------------------------------------------------------------------------------------

/// What stands in brackets of _arguments.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char c : text)
    out += c == '[' || c == ']' || c == '\\' || c == ':' ? std::string{'\\'} + c : std::string{c};
  return out;
}

/// ":MESSAGE:ACTION" of a value.
std::string zsh_value(const CommandOption& option) {
  std::string action;
  switch (kind_of(option)) {
    case Kind::Nothing:
      return "";
    case Kind::Text:
      action = " ";
      break;
    case Kind::File:
      action = "_files";
      break;
    case Kind::Machine:
      action = "_mayfly_machines";
      break;
    case Kind::Words:
      action = '(' + words_of(option.value) + ')';
      break;
  }
  return ':' + zsh_text(option.value) + ':' + action;
}

/// One argument of _arguments: '(-k --kernel)'{-k+,--kernel=}'[ELF vmlinux or bzImage]:FILE:_files'
std::string zsh_option(const CommandOption& option, std::size_t position) {
  // Behind a machine stand the words of a guest's command.
  const bool is_the_rest = option.repeats && kind_of(option) != Kind::Machine;
  if (option.is_positional) return in_single_quotes((is_the_rest ? "*" : std::to_string(position)) + zsh_value(option));
  std::string all;
  std::string forms;
  for (const std::string& name : option.names) {
    all += (all.empty() ? "" : " ") + name;
    const bool is_long = name.starts_with("--");
    const std::string_view mark = option.value.empty() ? "" : is_long ? "=" : "+";
    forms += fmt::format("{}{}{}", forms.empty() ? "" : ",", name, mark);
  }
  if (option.names.size() > 1) forms = '{' + forms + '}';
  return in_single_quotes(option.repeats ? "*" : '(' + all + ')') + forms +
         in_single_quotes('[' + zsh_text(option.description) + ']' + zsh_value(option));
}

std::string zsh_function(const std::string& name, const CommandTree& command) {
  std::string text = name + "() {\n";
  text += "  local curcontext=\"$curcontext\" context state state_descr line\n  typeset -A opt_args\n";
  text += "  _arguments -C -S";
  std::size_t position = 0;
  for (const CommandOption& option : command.options)
    text += " \\\n    " + zsh_option(option, option.is_positional ? ++position : 0);
  if (command.commands.empty()) return text + "\n}\n\n";
  text += " \\\n    '1: :->command' '*:: :->rest'\n  case $state in\n    command)\n      local -a commands\n";
  text += "      commands=(\n";
  for (const CommandTree& below : command.commands)
    text += "        " + in_single_quotes(below.name + ':' + below.description) + '\n';
  text += "      )\n      _describe command commands ;;\n    rest)\n      case $line[1] in\n";
  for (const CommandTree& below : command.commands)
    text += fmt::format("        {}) {}_{} ;;\n", below.name, name, below.name);
  return text + "      esac ;;\n  esac\n}\n\n";
}

std::string zsh_script(const CommandTree& tree) {
  std::string script = "#compdef mayfly\n" + first_line("#", "zsh");
  script +=
      "\n_mayfly_machines() {\n"
      "  local -a machines\n"
      "  machines=(${(f)\"$(_call_program machines mayfly ps 2>/dev/null | " +
      std::string{kIdsOfList} +
      ")\"})\n"
      "  compadd -a machines || _files\n"
      "}\n\n";
  for_each_command(tree, "_mayfly", [&](std::string name, const CommandTree& command) {
    std::ranges::replace(name, ' ', '_');
    script += zsh_function(name, command);
  });
  return script + "if [ \"$funcstack[1]\" = _mayfly ]; then _mayfly \"$@\"; else compdef _mayfly mayfly; fi\n";
}

// --- fish ------------------------------------------------------------------------------------------------------------

/// Where a command's own words stand: "__fish_seen_subcommand_from snapshot; and __fish_seen_subcommand_from create".
std::string fish_condition(std::string_view place, const CommandTree& command) {
  std::string condition;
  std::size_t blank = place.find(' ');
  while (blank != std::string_view::npos) {  // each name but the first
    const std::size_t end = place.find(' ', blank + 1);
    condition += fmt::format("{}__fish_seen_subcommand_from {}", condition.empty() ? "" : "; and ",
                             place.substr(blank + 1, end - std::min(end, blank + 1)));
    blank = end;
  }
  if (condition.empty()) return "__fish_use_subcommand";
  if (command.commands.empty()) return condition;
  condition += "; and not __fish_seen_subcommand_from";
  for (const CommandTree& below : command.commands) condition += ' ' + below.name;
  return condition;
}

std::string fish_value(const CommandOption& option) {
  switch (kind_of(option)) {
    case Kind::Nothing:
      return "";
    case Kind::Text:
      return " -x";
    case Kind::File:
      return " -r -F";
    case Kind::Machine:
      return " -x -a '(__mayfly_machines)'";
    case Kind::Words:
      break;
  }
  return " -x -a " + in_single_quotes(words_of(option.value));
}

std::string fish_script(const CommandTree& tree) {
  std::string script = first_line("#", "fish");
  script +=
      "\nfunction __mayfly_machines\n"
      "  mayfly ps 2>/dev/null | " +
      std::string{kIdsOfList} +
      "\n"
      "end\n\n"
      "complete -c mayfly -f\n";
  for_each_command(tree, tree.name, [&](const std::string& place, const CommandTree& command) {
    const std::string start = "complete -c mayfly -n " + in_single_quotes(fish_condition(place, command));
    for (const CommandTree& below : command.commands)
      script += fmt::format("{} -a {} -d {}\n", start, below.name, in_single_quotes(below.description));
    for (const CommandOption& option : command.options) {
      script += start;
      if (!option.is_positional)
        for (const std::string_view name : option.names)
          script +=
              name.starts_with("--") ? fmt::format(" -l {}", name.substr(2)) : fmt::format(" -s {}", name.substr(1));
      script += fmt::format("{} -d {}\n", fish_value(option), in_single_quotes(option.description));
    }
  });
  return script;
}

}  // namespace

std::string completion_script(Shell shell, const CommandTree& tree) {
  switch (shell) {
    case Shell::Bash:
      return bash_script(tree);
    case Shell::Fish:
      return fish_script(tree);
    case Shell::Zsh:
      break;
  }
  return zsh_script(tree);
}

}  // namespace mayfly
