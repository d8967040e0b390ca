// Runs a build.gradle without Gradle, and prints as JSON what it sets, and how packaging each type of app ends.
// Arguments: the file, then Gradle's properties as NAME=VALUE.
import groovy.json.JsonOutput
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.customizers.ImportCustomizer

/** A block of settings. What it doesn't have is looked for in those around it, as Gradle does. */
class Block {
    final Map<String, Object> set = [:]

    def propertyMissing(String name) {
        if (!set.containsKey(name)) {
            throw new MissingPropertyException(name, Block)
        }
        return set[name]
    }

    def propertyMissing(String name, value) {
        set[name] = value
    }

    def methodMissing(String name, arguments) {
        if (arguments && arguments[-1] instanceof Closure) {
            String of = name == 'create' ? arguments[0] : name
            set[of] = set[of] ?: new Block()
            set[of].run(arguments[-1])
        } else if (name in ['proguardFiles', 'consumerProguardFiles']) {
            set[name] = arguments as List
        } else {
            throw new MissingMethodException(name, Block, arguments as Object[])
        }
    }

    def run(Closure body) {
        body.delegate = this
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body()
    }

    Map plain() {
        set.collectEntries { name, value -> [name, value instanceof Block ? value.plain() : value] }
    }
}

/** A task, which runs those that it depends on first. */
class Task {
    String name
    List<Task> first = []
    List<Task> ordered = []
    List<Closure> actions = []

    void doLast(Closure action) {
        actions << action
    }

    void dependsOn(Task other) {
        first << other
    }

    void mustRunAfter(Task other) {
        ordered << other
    }

    String end() {
        try {
            first.each { task -> task.actions.each { it() } }
            return 'made'
        } catch (IllegalStateException error) {
            return error.message
        }
    }
}

/** Versions. */
class Catalog {
    def propertyMissing(String name) {
        return this
    }

    def get() {
        return '1'
    }
}

/** A folder, or a file in it. */
class Folder {
    File asFile

    Folder dir(String name) {
        return new Folder(asFile: new File(asFile, name))
    }

    Folder file(String name) {
        return dir(name)
    }
}

def warned = []
def given = args.tail().collectEntries { it.split('=', 2) as List }
def rules = []
def android = new Block()
def wrapper = new Block()
def nothing = { body -> }
def register = { String name, Closure body ->
    def task = new Task(name: name)
    body.delegate = task
    body.resolveStrategy = Closure.DELEGATE_FIRST
    body()
    return task
}
def scope = new Binding(
    plugins: nothing,
    dependencies: nothing,
    android: { Closure body -> android.run(body) },
    libs: new Catalog(),
    providers: [
        gradleProperty: { name -> [getOrNull: { -> given[name] }, getOrElse: { given[name] ?: it }] },
        environmentVariable: { name -> [orElse: { it }] },
    ],
    rootProject: [
        file: { path -> "root/$path".toString() },
        layout: [projectDirectory: new Folder(asFile: new File(args[0]).parentFile.parentFile)],
    ],
    file: { it.startsWith('/') ? new File(it) : new File(new File(args[0]).parentFile, it) },
    files: { it },
    kotlin: nothing,
    logger: [warn: { warned << it.toString() }],
    jniLibs: [srcDir: { }],
    tasks: [
        register: register,
        configureEach: { Closure body -> rules << body },
        named: { String name, Closure body -> assert name == 'wrapper'; wrapper.run(body) },
    ],
    getDefaultProguardFile: { it },
    JavaVersion: [VERSION_11: 11],
    abiFilters: [], arguments: [], noCompress: [], assetPacks: [],
)
def imports = new ImportCustomizer().addImport('GradleException', 'java.lang.IllegalStateException')
// An enum of the Kotlin plugin's is imported, and only asked for in a block that isn't run.
def text = new File(args[0]).text.replace('import org.jetbrains.kotlin.gradle.dsl.KotlinVersion', '')
new GroovyShell(scope, new CompilerConfiguration().addCompilationCustomizers(imports)).evaluate(text)

def tasks = ['packageRelease', 'packageReleaseBundle', 'packageDebug', 'preReleaseBuild', 'preBuild'].collect { new Task(name: it) }
tasks.each { task -> rules.each { it(task) } }
println JsonOutput.toJson([
    android: android.plain(),
    wrapper: wrapper.plain(),
    warned: warned,
    ends: tasks.collectEntries { [it.name, it.end()] },
    ordered: tasks.collectEntries { [it.name, it.ordered*.name] },
])
