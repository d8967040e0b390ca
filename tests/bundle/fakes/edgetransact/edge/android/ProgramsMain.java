package edgetransact.edge.android;

/** Starts {@link Programs} as an app would: with a library's path, its prefix, and the file for its programs. */
public final class ProgramsMain {
    private ProgramsMain() {}

    public static void main(String[] arguments) {
        System.load(arguments[0]);
        System.out.println(Programs.restoreOrBuild(arguments[1], arguments[2]));
    }
}
