"""The scripts that make bash, zsh and fish complete the words of `rollout`, and those that undo it."""

INSTALL = {
    "bash": """\
_rollout_completion() {
    mapfile -t COMPREPLY < <(
        COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT ROLLOUT_WORDBREAKS=$COMP_WORDBREAKS \\
            "${1/#\\~/$HOME}" -sc query=bash 2> /dev/null
    )
}
complete -o nospace -F _rollout_completion rollout""",
    "zsh": """\
_rollout_completion() {
    local -a found
    found=(${(f)"$(COMP_LINE="${(j: :)words[1,CURRENT-1]} $PREFIX" ${~words[1]} -sc query=zsh 2> /dev/null)"})
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${found:#*[=./]}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _rollout_completion rollout""",
    "fish": """\
function _rollout_completion
    set -lx COMP_LINE (commandline -cp)
    rollout -sc query=fish 2> /dev/null
end
complete -c rollout -f -k -a '(_rollout_completion)'""",
}
UNINSTALL = {
    "bash": "complete -r rollout; unset -f _rollout_completion",
    "zsh": "compdef -d rollout; unfunction _rollout_completion",
    "fish": "complete -e -c rollout; functions -e _rollout_completion",
}
