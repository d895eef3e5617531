package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// usageError is a command line that makes no sense.
type usageError string

func (e usageError) Error() string { return string(e) }

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return fmt.Sprint([]string(*l)) }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// newFlags makes the flags of a subcommand; synopsis is what follows its name on the command line.
func newFlags(name, synopsis string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		_, _ = fmt.Fprintf(stderr, "Usage: weftctl %s %s\n", name, synopsis)
		fs.PrintDefaults()
	}
	return fs
}

// configFlag adds -c and --config-path, which every process takes.
func configFlag(fs *flag.FlagSet) *list {
	var paths list
	fs.Var(&paths, "c", "configuration `file` or directory; may be given several times, later ones win")
	fs.Var(&paths, "config-path", "the same as -c `FILE`")
	return &paths
}

// parse reads flags before, between and after positional arguments, which it returns.
func parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var positional []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usageError(err.Error())
		}
		if fs.NArg() == 0 {
			return positional, nil
		}
		positional = append(positional, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// noArguments refuses positional arguments.
func noArguments(fs *flag.FlagSet, args []string) error {
	rest, err := parse(fs, args)
	if err == nil && len(rest) > 0 {
		return usageError(fmt.Sprintf("unexpected argument %q", rest[0]))
	}
	return err
}
