import java.io.File;
import org.codehaus.groovy.control.CompilationFailedException;
import org.codehaus.groovy.control.CompilationUnit;
import org.codehaus.groovy.control.Phases;

/** Parses Groovy, and prints what is wrong with each file that isn't. */
public final class GroovyParser {
    private GroovyParser() {}

    public static void main(String[] files) {
        for (String file : files) {
            CompilationUnit unit = new CompilationUnit();
            unit.addSource(new File(file));
            try {
                unit.compile(Phases.CONVERSION);
            } catch (CompilationFailedException error) {
                System.out.println(error.getMessage());
            }
        }
    }
}
